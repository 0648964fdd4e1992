"""Users as they are read, listed and changed."""

from collections.abc import Sequence
from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import outbox
from services.chassis.errors import EtagMismatch, NotFound
from services.identity import administrators, security, sessions

COLUMNS = """
    users.id, users.email, users.normalized_email, users.name, users.image_url, users.email_verified_at,
    users.created_at, users.updated_at, users.disabled_at, users.revision, users.is_claim,
    users.administrator_since IS NOT NULL AS is_administrator, users.password_hash IS NOT NULL AS has_password
"""
"""What wire.user needs of a row; for RETURNING as well."""

GET = text(f"SELECT {COLUMNS} FROM users WHERE id = ANY(CAST(:ids AS uuid[]))")
# Locked, so that nobody deletes the user before a row of ours refers to it.
FIND = text(f"SELECT {COLUMNS} FROM users WHERE normalized_email = :normalized_email FOR KEY SHARE")
LOCK = text(f"SELECT {COLUMNS} FROM users WHERE id = :id FOR NO KEY UPDATE")
UPDATE = text(f"""
    UPDATE users
    SET name = coalesce(:name, name), image_url = coalesce(:image_url, image_url), email = coalesce(:email, email),
        updated_at = statement_timestamp(), revision = revision + 1
    WHERE id = :id
    RETURNING {COLUMNS}
""")
LIST = text(f"""
    SELECT {COLUMNS} FROM users
    WHERE id > CAST(:after AS uuid) AND (:show_disabled OR disabled_at IS NULL)
    ORDER BY id LIMIT :size
""")
# By address: in the order of the ids, each page would read every address that begins so.
LIST_BY_ADDRESS = text(f"""
    SELECT {COLUMNS} FROM users
    WHERE normalized_email > :after AND normalized_email >= :prefix AND normalized_email < :prefix || chr(1114111)
        AND (:show_disabled OR disabled_at IS NULL)
    ORDER BY normalized_email LIMIT :size
""")
SET_DISABLED = text(f"""
    UPDATE users
    SET disabled_at = CASE WHEN :disabled THEN statement_timestamp() END,
        updated_at = statement_timestamp(), revision = revision + 1
    WHERE id = :id AND (disabled_at IS NOT NULL) <> :disabled
    RETURNING {COLUMNS}
""")
FIRST = "00000000-0000-0000-0000-000000000000"


async def access_user(tx: AsyncConnection, *, user_id: str) -> Row[Any]:
    """The user; NOT_FOUND if there is none."""
    user = (await tx.execute(GET, {"ids": [user_id]})).one_or_none()
    if user is None:
        raise NotFound
    return user


async def find(tx: AsyncConnection, *, normalized_email: str) -> Row[Any] | None:
    """Whoever has an address."""
    return (await tx.execute(FIND, {"normalized_email": normalized_email})).one_or_none()


async def list_users(tx: AsyncConnection, *, user_ids: Sequence[str]) -> Sequence[Row[Any]]:
    """Those of the users that exist, each once."""
    return (await tx.execute(GET, {"ids": list(user_ids)})).all()


async def list_page(
    tx: AsyncConnection, *, after: str | None, size: int, show_disabled: bool, email_prefix: str
) -> Sequence[Row[Any]]:
    """Users from the one after an id on or, with a prefix (normalised), after an address."""
    page = {"size": size, "show_disabled": show_disabled}
    if email_prefix:
        return (await tx.execute(LIST_BY_ADDRESS, {**page, "after": after or "", "prefix": email_prefix})).all()
    return (await tx.execute(LIST, {**page, "after": after or FIRST})).all()


async def lock(tx: AsyncConnection, *, user_id: str) -> Row[Any]:
    """The user, whom nobody changes until the transaction ends. NOT_FOUND if there is none."""
    user = (await tx.execute(LOCK, {"id": user_id})).one_or_none()
    if user is None:
        raise NotFound
    return user


def etag_of(user: Row[Any]) -> str:
    """Changes with each change of the user."""
    return str(user.revision)


def require_etag(user: Row[Any], etag: str) -> None:
    """ETAG_MISMATCH if an etag is not the user's; an empty one is not compared."""
    if etag and etag != etag_of(user):
        raise EtagMismatch


async def update(
    tx: AsyncConnection, user: Row[Any], *, name: str | None, image_url: str | None, email: str | None
) -> Row[Any]:
    """Sets what is not None; `email` is another spelling of the same address. The user is locked."""
    if name is image_url is email is None:
        return user
    return (await tx.execute(UPDATE, {"id": user.id, "name": name, "image_url": image_url, "email": email})).one()


async def disable(tx: AsyncConnection, *, user_id: str, etag: str, actor_id: str) -> Row[Any]:
    """Keeps somebody out and ends their sessions. NOT_FOUND; ETAG_MISMATCH; LAST_ADMINISTRATOR."""
    await administrators.lock(tx, user_id=user_id)
    user = await lock(tx, user_id=user_id)
    require_etag(user, etag)
    await administrators.require_another(tx, user_id=user_id)
    changed = await _set_disabled(tx, user, disabled=True, actor_id=actor_id)
    if changed is not user:
        # Whoever can run a workspace no longer must be succeeded there.
        told = events.UserDisabled(user_id=user_id, revision=changed.revision)
        await outbox.emit(tx, ["membership"], events.Event(user_disabled=told))
    await sessions.end_all(tx, user_id=user_id, reason="user_disabled")
    return changed


async def enable(tx: AsyncConnection, *, user_id: str, etag: str, actor_id: str) -> Row[Any]:
    """Lets somebody sign in again. NOT_FOUND; ETAG_MISMATCH."""
    user = await lock(tx, user_id=user_id)
    require_etag(user, etag)
    changed = await _set_disabled(tx, user, disabled=False, actor_id=actor_id)
    if changed is not user:
        told = events.UserEnabled(user_id=user_id, revision=changed.revision)
        await outbox.emit(tx, ["membership"], events.Event(user_enabled=told))
    return changed


async def _set_disabled(tx: AsyncConnection, user: Row[Any], *, disabled: bool, actor_id: str) -> Row[Any]:
    changed = (await tx.execute(SET_DISABLED, {"id": user.id, "disabled": disabled})).one_or_none()
    if changed is None:
        return user
    kind = "user_disabled" if disabled else "user_enabled"
    await security.record(tx, kind, user_id=str(user.id), actor_id=actor_id)
    return changed
