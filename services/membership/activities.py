"""The activity log's writing side: rows chained by hashes, people named by references (ADR 8)."""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.errors import NotFound

LOCK_HEAD = text("""
    SELECT activity_number, activity_hash, statement_timestamp() AS clock FROM workspace_heads
    WHERE workspace_id = :workspace_id FOR NO KEY UPDATE
""")
# Under the head's lock, so that nobody else adds the same person.
FIND_REFS = text("""
    SELECT ref, user_id FROM activity_people
    WHERE workspace_id = :workspace_id AND user_id = ANY(CAST(:user_ids AS uuid[]))
""")
# Who has departed gets none: what is told of them late names nobody.
ADD_REFS = text("""
    INSERT INTO activity_people (workspace_id, ref, user_id)
    SELECT CAST(:workspace_id AS uuid), new.ref, new.user_id
    FROM unnest(CAST(:refs AS uuid[]), CAST(:user_ids AS uuid[])) AS new (ref, user_id)
    WHERE NOT EXISTS (SELECT FROM departed_users d WHERE d.user_id = new.user_id)
    RETURNING ref, user_id
""")
COLUMNS = {
    "number": "bigint",
    "happened_at": "timestamptz",
    "action": "text",
    "outcome": "text",
    "actor_ref": "uuid",
    "actor_account_id": "uuid",
    "target_type": "text",
    "target_id": "uuid",
    "target_ref": "uuid",
    "metadata": "text",
    "request_id": "text",
    "actor_details_hash": "bytea",
    "target_details_hash": "bytea",
}
"""In the order in which they are hashed, after the workspace's id."""
ARRAYS = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in {**COLUMNS, "hash": "bytea"}.items())
NAMES = ", ".join((*COLUMNS, "hash"))
INSERT = text(f"""
    INSERT INTO activities (workspace_id, {NAMES})
    SELECT CAST(:workspace_id AS uuid), {NAMES.replace("metadata", "CAST(metadata AS jsonb)")}
    FROM unnest({ARRAYS}) AS new ({NAMES})
""")
INSERT_DETAILS = text("""
    INSERT INTO activity_details (workspace_id, number, about, ref, salt, body)
    SELECT CAST(:workspace_id AS uuid), number, about, ref, salt, CAST(body AS jsonb)
    FROM unnest(
        CAST(:numbers AS bigint[]), CAST(:abouts AS text[]), CAST(:refs AS uuid[]), CAST(:salts AS bytea[]),
        CAST(:bodies AS text[])
    ) AS new (number, about, ref, salt, body)
""")
MOVE_HEAD = text("""
    UPDATE workspace_heads SET activity_number = :number, activity_hash = :hash WHERE workspace_id = :workspace_id
""")

FIRST_HASH = bytes(32)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose doing it was, and by which call. The empty string stands for what there is not."""

    user_id: str = ""
    account_id: str = ""
    request_id: str = ""
    session_id: str = ""
    client_address: str = ""
    user_agent: str = ""


SUITE = Origin()
"""Nobody's doing: time passed, or a person was deleted."""


@dataclass(frozen=True, slots=True)
class Activity:
    """One thing that was done, or tried. People are named by `target_user_id` and `personal` only."""

    action: str
    target_type: str
    target_id: str | None = None
    target_user_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    personal: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = "done"
    happened_at: datetime | None = None


@dataclass(slots=True)
class _Details:
    number: int
    about: str
    ref: str
    body: str
    salt: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    @property
    def hash(self) -> bytes:
        return details_hash(self.salt, self.body)


def of_call() -> Origin:
    """The current call's caller."""
    call = current_call()
    return Origin(
        call.user_id,
        call.service_account_id,
        call.request_id,
        call.session_id,
        call.client_address,
        call.user_agent,
    )


async def record(
    tx: AsyncConnection, workspace_id: str, activities: Sequence[Activity], *, origin: Origin | None = None
) -> int:
    """Appends activities to the chain under one lock, the transaction's last; returns the last one's number.

    `origin` is the current call's where it is not given. Errors: NotFound, without such a workspace.
    """
    origin = of_call() if origin is None else origin
    head = (await tx.execute(LOCK_HEAD, {"workspace_id": workspace_id})).one_or_none()
    if head is None:
        raise NotFound
    people = {origin.user_id, *(each.target_user_id for each in activities)} - {"", None}
    refs = await _refs(tx, workspace_id, sorted(str(UUID(str(person))) for person in people))
    number, chain = int(head.activity_number), bytes(head.activity_hash or FIRST_HASH)
    rows, details = [], []
    for activity in activities:
        number += 1
        beside = _details(number, activity, origin, refs)
        row = _row(number, activity, origin, refs, beside, head.clock)
        chain = row["hash"] = row_hash(chain, workspace_id, row)
        rows.append(row)
        details += beside
    arrays = {name: [row[name] for row in rows] for name in (*COLUMNS, "hash")}
    await tx.execute(INSERT, {"workspace_id": workspace_id, **arrays})
    if details:
        await tx.execute(INSERT_DETAILS, {"workspace_id": workspace_id, **_arrays(details)})
    await tx.execute(MOVE_HEAD, {"workspace_id": workspace_id, "number": number, "hash": chain})
    return number


async def _refs(tx: AsyncConnection, workspace_id: str, user_ids: Sequence[str]) -> dict[str, str]:
    """The references of people, made where they have none; who has departed is left out."""
    if not user_ids:
        return {}
    rows = list(await tx.execute(FIND_REFS, {"workspace_id": workspace_id, "user_ids": user_ids}))
    known = {str(row.user_id) for row in rows}
    added = [user_id for user_id in user_ids if user_id not in known]
    if added:
        # Random, not UUIDv7: the time in one would say when the person first did something.
        new = {"workspace_id": workspace_id, "refs": [str(uuid4()) for _ in added], "user_ids": added}
        rows += await tx.execute(ADD_REFS, new)
    return {str(row.user_id): str(row.ref) for row in rows}


def _details(number: int, activity: Activity, origin: Origin, refs: Mapping[str, str]) -> list[_Details]:
    """What is personal, by whose it is. Without a person there is nobody to whom it could belong, so nothing."""
    actor = {
        "session_id": origin.session_id,
        "client_address": origin.client_address,
        "user_agent": origin.user_agent,
    }
    target = {"reason": activity.reason, "personal": dict(activity.personal)}
    # A reason about a thing is its author's own text.
    owner = activity.target_user_id or origin.user_id
    found = []
    for about, person, values in (("actor", origin.user_id, actor), ("target", owner, target)):
        body = {name: value for name, value in values.items() if value}
        ref = _ref(refs, person)
        if ref and body:
            found.append(_Details(number, about, ref, canonical(body)))
    return found


def _row(
    number: int,
    activity: Activity,
    origin: Origin,
    refs: Mapping[str, str],
    beside: Sequence[_Details],
    clock: datetime,
) -> dict[str, Any]:
    hashes = {each.about: each.hash for each in beside}
    return {
        "number": number,
        "happened_at": activity.happened_at or clock,
        "action": activity.action,
        "outcome": activity.outcome,
        "actor_ref": _ref(refs, origin.user_id),
        "actor_account_id": origin.account_id or None,
        "target_type": activity.target_type,
        "target_id": activity.target_id,
        "target_ref": _ref(refs, activity.target_user_id),
        "metadata": canonical(activity.metadata),
        "request_id": origin.request_id,
        "actor_details_hash": hashes.get("actor"),
        "target_details_hash": hashes.get("target"),
    }


def _ref(refs: Mapping[str, str], user_id: str | None) -> str | None:
    return refs.get(str(UUID(user_id))) if user_id else None


def _arrays(details: Sequence[_Details]) -> dict[str, list[Any]]:
    return {
        "numbers": [each.number for each in details],
        "abouts": [each.about for each in details],
        "refs": [each.ref for each in details],
        "salts": [each.salt for each in details],
        "bodies": [each.body for each in details],
    }


def canonical(value: Mapping[str, Any]) -> str:
    """JSON in one spelling only, which survives `jsonb`. ValueError for fractions: jsonb would spell them anew."""
    _require_exact(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _require_exact(value: object) -> None:
    if isinstance(value, float):
        raise ValueError("no fractions in metadata")
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        _require_exact(item)


def details_hash(salt: bytes, body: str) -> bytes:
    """What a row holds of what stands beside it."""
    return hashlib.sha256(salt + body.encode()).digest()


def row_hash(previous: bytes, workspace_id: str, row: Mapping[str, Any]) -> bytes:
    """The hash of a row, by its columns, and of the hash before it."""
    digest = hashlib.sha256(b"guildhall activity 1" + previous)
    for name, kind in {"workspace_id": "uuid", **COLUMNS}.items():
        value = workspace_id if name == "workspace_id" else row[name]
        raw = _bytes(kind, value)
        digest.update((2**64 - 1 if raw is None else len(raw)).to_bytes(8) + (raw or b""))
    return digest.digest()


def _bytes(kind: str, value: Any) -> bytes | None:
    if value is None:
        return None
    if kind == "uuid":
        return UUID(str(value)).bytes
    if kind == "bigint":
        return int(value).to_bytes(8)
    if kind == "timestamptz":
        # In whole numbers: a float of seconds would lose microseconds.
        past: timedelta = value - EPOCH
        return ((past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds).to_bytes(8)
    return bytes(value) if kind == "bytea" else str(value).encode()
