"""The security log: what happened to a user's ways of signing in, and to service accounts."""

from collections.abc import Sequence
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import CURRENT
from services.chassis.errors import NotFound

RECORD = text("""
    INSERT INTO security_events
        (id, user_id, service_account_id, actor_id, kind, session_id, client_address, user_agent)
    VALUES
        (:id, :user_id, :service_account_id, :actor_id, :kind, :session_id, :client_address, :user_agent)
""")
LIST = text("""
    SELECT listed.* FROM users
    LEFT JOIN LATERAL (
        SELECT id, kind, created_at, session_id, service_account_id,
            CASE WHEN actor_id IS NULL THEN client_address ELSE '' END AS client_address,
            CASE WHEN actor_id IS NULL THEN user_agent ELSE '' END AS user_agent
        FROM security_events WHERE user_id = users.id AND id < CAST(:before AS uuid)
        ORDER BY id DESC LIMIT :size
    ) listed ON true
    WHERE users.id = :user_id
    ORDER BY listed.id DESC
""")
# What users.AN_APP_ACTED asks about, however late, is kept: an import here, the rest with the user before it goes. An
# older replica, or one of before there was where to keep it, has written it here alone.
OLD = text("""
    SELECT id FROM security_events
    WHERE created_at <= statement_timestamp() - interval '1 year' AND kind <> 'user_imported'
    ORDER BY created_at LIMIT 1000
""")
REMEMBER = text("""
    UPDATE users SET app_acted_at = acts.since
    FROM (
        SELECT user_id, min(created_at) AS since
        FROM security_events entry
        WHERE id = ANY(CAST(:ids AS uuid[])) AND (
            service_account_id IS NOT NULL AND kind IN ('signed_in', 'email_changed')
            OR kind = 'email_changed' AND EXISTS (
                SELECT FROM security_events WHERE user_id = entry.user_id AND kind = 'user_imported'
            )
        )
        GROUP BY user_id
    ) acts
    WHERE users.id = acts.user_id AND app_acted_at IS NULL
""")
FORGET = text("DELETE FROM security_events WHERE id = ANY(CAST(:ids AS uuid[]))")
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"


async def record(
    tx: AsyncConnection,
    kind: str,
    *,
    user_id: str | None,
    session_id: str | None = None,
    actor_id: str | None = None,
    service_account_id: str | None = None,
) -> None:
    """Adds an entry, in the transaction of what happened. `kind` is a SecurityEventKind's name in lower case.

    `user_id` is whose log it is (none for an address that nobody has), `actor_id` who did it if that was somebody else.
    `session_id` is that of the call, if it is not said and the call is the user's own.
    """
    call = CURRENT.get(None)
    if not session_id and call and user_id and call.user_id == user_id:
        session_id = call.session_id
    row = {
        "id": str(uuid_utils.uuid7()),
        "user_id": user_id or None,
        "service_account_id": service_account_id or None,
        "actor_id": actor_id or None,
        "kind": kind,
        "session_id": session_id or None,
        "client_address": call.client_address if call else "",
        "user_agent": call.user_agent if call else "",
    }
    await tx.execute(RECORD, row)


async def list_page(tx: AsyncConnection, *, user_id: str, before: str | None, size: int) -> Sequence[Row[Any]]:
    """A user's entries, newest first, from the one after `before` on. NOT_FOUND if there is no such user."""
    page = {"user_id": user_id, "before": before or LAST, "size": size}
    rows = (await tx.execute(LIST, page)).all()
    if not rows:
        raise NotFound
    return [row for row in rows if row.id is not None]


async def forget(tx: AsyncConnection) -> int:
    """Deletes entries that are older than a year, but of imports; says how many."""
    ids = [str(entry_id) for entry_id in (await tx.execute(OLD)).scalars()]
    if ids:
        # The users before their entries, as a deletion locks them. Of others two may still meet; both try again.
        await tx.execute(REMEMBER, {"ids": ids})
        await tx.execute(FORGET, {"ids": ids})
    return len(ids)
