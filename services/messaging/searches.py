"""Searching: what somebody sees and what matches, newest first, window by window back through time.

A page costs what the windows cost that it was found in, however common the words are elsewhere (ADR 11).
"""

import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.messaging.v1 import message_service_pb2 as pb
from sqlalchemy import Row, TextClause, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import sqlstate
from services.chassis.errors import InvalidRequest
from services.messaging import reactions
from services.messaging.access import IN_HISTORY, VISIBLE, Viewer
from services.messaging.ids import uuid_of
from services.messaging.messages import COUNTED, KEPT, MESSAGE
from services.messaging.search_keys import (
    FILE,
    first_id,
    id_at,
    query_of,
    reaction_key,
    stretch_of,
    window_before,
    words_of,
)

PAGE_SECONDS = 0.1
"""No window is begun after it: the page is short then, and the next one goes on where this one stopped."""
WINDOW_SECONDS = 0.02
"""What a window should take. The next one is as much longer or shorter."""
MOST_LONGER = 16
MOST_NARROWED = 100
"""Of so few conversations it is asked by name; of more, what is found elsewhere is passed over."""
SLACK_MILLISECONDS = 60_000
"""How far a process' clock, from which ids are, may be from the database's."""
INTERNAL_ERROR = "XX000"

PREPARE = text(f"""
    SELECT numnode(q) > 0 AS has_words, querytree(q) NOT IN ('', 'T') AS is_indexed
    FROM (SELECT {query_of("CAST(:query AS text)")} AS q) prepared
""")
# Only to look in fewer places. Who sees what is said by VISIBLE, in the statements that find and that read.
NARROW = text("""
    SELECT CAST(id AS text) FROM (
        (SELECT id FROM conversations
        WHERE workspace_id = :workspace_id AND visibility = 'public' AND CAST(:granted AS uuid[]) IS NULL LIMIT :most)
        UNION
        (SELECT conversation_id FROM participants WHERE member_id = :member_id LIMIT :most)
        UNION
        (SELECT unnest(CAST(:granted AS uuid[])) LIMIT :most)
    ) perhaps LIMIT :most
""")
# Once more what was asked for, of what the messages say now: an entry may be a second older than its message.
READ = text(f"""
    SELECT CAST(c.id AS text) AS conversation_id, CAST(c.group_id AS text) AS group_id, m.*
    FROM unnest(CAST(:conversation_ids AS uuid[]), CAST(:message_ids AS uuid[]))
        WITH ORDINALITY AS found (conversation_id, message_id, place)
    JOIN conversations c ON c.id = found.conversation_id
    CROSS JOIN LATERAL (
        SELECT {MESSAGE}, ({COUNTED}) AS reactions
        FROM messages m
        WHERE m.conversation_id = c.id AND m.id = found.message_id AND m.deleted_at IS NULL AND {KEPT}
            AND {IN_HISTORY}
            AND (CAST(:query AS text) = '' OR {words_of("m.text")} @@ {query_of("CAST(:query AS text)")})
            AND (CAST(:after AS timestamptz) IS NULL OR m.created_at >= CAST(:after AS timestamptz))
            AND (CAST(:until AS timestamptz) IS NULL OR m.created_at < CAST(:until AS timestamptz))
            AND (NOT CAST(:has_file AS bool) OR m.file_count > 0)
            AND (CAST(:member_id_mentioned AS uuid) IS NULL
                OR CAST(:member_id_mentioned AS uuid) = ANY(m.mentioned_member_ids))
            AND (CAST(:emoji_key AS text) = '' OR EXISTS (
                SELECT FROM reactions r
                WHERE r.conversation_id = c.id AND r.message_id = m.id AND r.emoji_key = CAST(:emoji_key AS text)
            ))
        LIMIT 1
    ) m
    WHERE {VISIBLE} ORDER BY found.place
""")


@dataclass(frozen=True, slots=True)
class Criteria:
    """What is looked for. Empty strings and None stand for what does not matter."""

    query: str
    conversation_ids: tuple[str, ...]
    sender_user_id: str
    after: datetime | None
    until: datetime | None
    has_file: bool
    mentioned_member_id: str
    emoji_key: str

    @property
    def scope(self) -> str:
        """All of it in one line, for the page token."""
        return json.dumps([str(getattr(self, name)) for name in self.__slots__])

    @property
    def keys(self) -> list[str]:
        """What each entry must have."""
        wanted = [self.sender_user_id, self.mentioned_member_id, FILE if self.has_file else ""]
        wanted.append(reaction_key(self.emoji_key) if self.emoji_key else "")
        return [key for key in wanted if key]


@dataclass(frozen=True, slots=True)
class Found:
    """A page: rows with messages.MESSAGE's columns, conversation_id and reactions; and where the next one begins."""

    rows: Sequence[Row[Any]]
    before: str | None
    """Everything older than this id is still to be looked at; None if there is nothing."""


def criteria_of(request: pb.SearchMessagesRequest) -> Criteria:
    """What is asked for, in PostgreSQL's spelling. INVALID_REQUEST if it is nothing."""
    found = Criteria(
        query=request.query,
        conversation_ids=tuple(sorted(map(uuid_of, request.conversation_ids))),
        sender_user_id=uuid_of(request.sender_user_id) if request.sender_user_id else "",
        after=_time(request, "sent_after"),
        until=_time(request, "sent_before"),
        has_file=request.has_file,
        mentioned_member_id=uuid_of(request.mentioned_member_id) if request.mentioned_member_id else "",
        emoji_key=_emoji_key(request.reaction),
    )
    if not (found.query or found.keys or found.after or found.until):
        raise InvalidRequest(fields=[("query", "is empty, and nothing else is asked for either")])
    return found


def _emoji_key(reaction: str) -> str:
    try:
        return reactions.key_of(reaction) if reaction else ""
    except InvalidRequest:
        raise InvalidRequest(fields=[("reaction", "is nothing but variation selectors")]) from None


def _time(request: pb.SearchMessagesRequest, field: Literal["sent_after", "sent_before"]) -> datetime | None:
    if not request.HasField(field):
        return None
    moment: Timestamp = getattr(request, field)
    try:
        return moment.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(fields=[(field, "is not a time of the years 1 to 9999")]) from None


async def find(tx: AsyncConnection, *, viewer: Viewer, criteria: Criteria, before: str | None, limit: int) -> Found:
    """The newest matches older than the id `before` that the viewer sees; fewer than `limit` when the time is up."""
    narrowed = await _narrow(tx, viewer, criteria)
    words = await _prepare(tx, criteria.query)
    if words is None or narrowed == []:
        return Found([], None)
    parameters = {
        **viewer.parameters,
        "query": criteria.query,
        "keys": criteria.keys,
        "conversation_ids": narrowed,
    }
    is_guest = viewer.granted is not None
    statement = _candidates(words, has_keys=bool(criteria.keys), is_narrowed=narrowed is not None, is_guest=is_guest)
    latest, oldest = _bounds(criteria)
    parameters["before"] = min(before or latest, latest)
    hits: list[Row[Any]] = []
    end, span, over = stretch_of(str(parameters["before"])) + 1, 1, time.monotonic() + PAGE_SECONDS
    while end > oldest and len(hits) <= limit and (begun := time.monotonic()) < over:
        window = window_before(end, span=span)
        asked = {"stretches": window.keys(viewer.workspace_id), "limit": limit + 1 - len(hits)}
        hits += (await tx.execute(statement, {**parameters, **asked})).all()
        end = window.begin
        ended = time.monotonic()
        factor = max(0.0, min(WINDOW_SECONDS, over - ended)) / max(ended - begun, 1e-4)
        span = max(1, int(span * min(factor, MOST_LONGER)))
    if len(hits) > limit:
        hits = hits[:limit]
        older: str | None = hits[-1].message_id
    else:
        older = first_id(end) if end > oldest else None
    return Found(await _read(tx, viewer, criteria, hits), older)


async def _narrow(tx: AsyncConnection, viewer: Viewer, criteria: Criteria) -> list[str] | None:
    """The conversations in which to look, if they are few: what is hidden among them is passed over later."""
    if criteria.conversation_ids:
        return list(criteria.conversation_ids)
    asked = {**viewer.parameters, "most": MOST_NARROWED + 1}
    found = list(await tx.scalars(NARROW, asked))
    return found if len(found) <= MOST_NARROWED else None


async def _prepare(tx: AsyncConnection, query: str) -> str | None:
    """How words are looked for: by nothing, by the index, or one by one where only what must not be is said.

    None if there is no word in what was asked for, such as "!?": that is found nowhere.
    """
    if not query:
        return ""
    try:
        prepared = (await tx.execute(PREPARE, {"query": query})).one()
    except exc.DBAPIError as error:
        # Of more than thirty "-" in a row PostgreSQL says that its stack is too small.
        if sqlstate(error) != INTERNAL_ERROR:
            raise
        raise InvalidRequest(fields=[("query", "is too deeply nested")]) from error
    if not prepared.has_words:
        return None
    matches = f"e.words @@ {query_of('CAST(:query AS text)')}"
    # IS TRUE keeps the index out of it, which would be read whole for each window.
    return f"AND {matches}" if prepared.is_indexed else f"AND ({matches}) IS TRUE"


@functools.cache
def _candidates(words: str, *, has_keys: bool, is_narrowed: bool, is_guest: bool) -> TextClause:
    """The newest entries of a window that match. What is not asked for is left out, so that the index is used."""
    # A page that is short for what is before a guest's history would tell that it is there.
    told = f"""AND EXISTS (
        SELECT FROM messages m WHERE m.conversation_id = c.id AND m.id = e.message_id AND {IN_HISTORY}
    )"""
    return text(f"""
        SELECT CAST(e.conversation_id AS text) AS conversation_id, CAST(e.message_id AS text) AS message_id
        FROM search_entries e JOIN conversations c ON c.id = e.conversation_id
        WHERE e.keys && CAST(:stretches AS uuid[]) {words}
            {"AND e.keys @> CAST(:keys AS uuid[])" if has_keys else ""}
            {"AND e.keys && CAST(:conversation_ids AS uuid[])" if is_narrowed else ""}
            AND e.workspace_id = :workspace_id AND e.message_id < :before AND {VISIBLE} {told if is_guest else ""}
        ORDER BY e.message_id DESC LIMIT :limit
    """)


def _bounds(criteria: Criteria) -> tuple[str, int]:
    """The id before which to look, and the shortest stretch at which to stop."""
    until = criteria.until.timestamp() if criteria.until else time.time()
    latest = id_at(min(max(0, int(until * 1000) + SLACK_MILLISECONDS), (1 << 48) - 1))
    after = int(criteria.after.timestamp() * 1000) - SLACK_MILLISECONDS if criteria.after else 0
    return latest, stretch_of(id_at(min(max(0, after), (1 << 48) - 1)))


async def _read(tx: AsyncConnection, viewer: Viewer, criteria: Criteria, hits: Sequence[Row[Any]]) -> list[Row[Any]]:
    if not hits:
        return []
    parameters = {
        **viewer.parameters,
        "user_id": viewer.user_id,
        "conversation_ids": [hit.conversation_id for hit in hits],
        "message_ids": [hit.message_id for hit in hits],
        "query": criteria.query,
        "after": criteria.after,
        "until": criteria.until,
        "has_file": criteria.has_file,
        "member_id_mentioned": criteria.mentioned_member_id or None,
        "emoji_key": criteria.emoji_key,
    }
    return list((await tx.execute(READ, parameters)).all())
