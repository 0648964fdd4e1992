"""System administrators: who they are, that one is always left, and that no app's key becomes one.

Whoever holds the key of an app's adapter may answer for its users, and so become any of them. Of an administrator it
may not: what leads to a session that is not the app's (an address, a first password) is refused here, and what it may
have left before somebody became one is dropped by `guildhall admin make-administrator`. So is what was imported.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.errors import PermissionDenied
from services.identity.errors import LastAdministrator

FIND = text("""
    SELECT id FROM users
    WHERE id = :user_id AND administrator_since IS NOT NULL AND disabled_at IS NULL
        AND NOT EXISTS (SELECT FROM sessions WHERE sessions.id = :session_id AND from_adapter)
""")
IS_IN_AN_APP = text("""
    SELECT EXISTS (
        SELECT FROM users JOIN sessions ON sessions.user_id = users.id
        WHERE users.id = :user_id AND administrator_since IS NOT NULL AND sessions.id = :session_id AND from_adapter
    )
""")
OF_SESSION = text("""
    SELECT CAST(users.id AS text) FROM sessions JOIN users ON users.id = sessions.user_id
    WHERE sessions.id = :session_id AND NOT sessions.from_adapter
        AND users.administrator_since IS NOT NULL AND users.disabled_at IS NULL
""")
# Locked, so that nobody becomes one meanwhile.
IS_ONE = text("SELECT administrator_since IS NOT NULL FROM users WHERE id = :user_id FOR NO KEY UPDATE")
# In the order of their ids, so that two who lock them do not wait for each other.
LOCK = text("""
    SELECT id FROM users
    WHERE administrator_since IS NOT NULL
        AND EXISTS (SELECT FROM users target WHERE target.id = :user_id AND target.administrator_since IS NOT NULL)
    ORDER BY id FOR NO KEY UPDATE OF users
""")
IS_LAST = text("""
    SELECT administrator_since IS NOT NULL AND disabled_at IS NULL AND NOT EXISTS (
        SELECT FROM users others
        WHERE others.administrator_since IS NOT NULL AND others.disabled_at IS NULL AND others.id <> users.id
    )
    FROM users WHERE id = :user_id
""")

NOT_BY_APP = "No app may do this about a system administrator."


async def require_administrator(tx: AsyncConnection, *, user_id: str) -> None:
    """PERMISSION_DENIED if the caller is no system administrator. To be asked before anything is looked up.

    A session that an app's adapter made does not do: with one, whoever holds the app's key could do anything.
    """
    named = {"user_id": user_id, "session_id": current_call().session_id}
    if (await tx.execute(FIND, named)).one_or_none() is None:
        raise PermissionDenied


async def find(tx: AsyncConnection, *, session_id: str) -> str | None:
    """The user id of an administrator by a session of their own, as another service is told; None for all others."""
    found: str | None = await tx.scalar(OF_SESSION, {"session_id": session_id})
    return found


async def require_own_session(tx: AsyncConnection, *, user_id: str) -> None:
    """PERMISSION_DENIED if the caller is an administrator by a session that an app's adapter made.

    For what would give whoever holds the app's key a session of another kind. True of a locked user only.
    """
    if await tx.scalar(IS_IN_AN_APP, {"user_id": user_id, "session_id": current_call().session_id}):
        raise PermissionDenied(NOT_BY_APP)


async def require_not_one(tx: AsyncConnection, *, user_id: str) -> None:
    """PERMISSION_DENIED if the user is an administrator, whom no app answers for; locks the user."""
    if await tx.scalar(IS_ONE, {"user_id": user_id}):
        raise PermissionDenied(NOT_BY_APP)


async def lock(tx: AsyncConnection, *, user_id: str) -> None:
    """If this is one, makes others wait who would lower the number of administrators. The first lock to be taken."""
    await tx.execute(LOCK, {"user_id": user_id})


async def require_another(tx: AsyncConnection, *, user_id: str) -> None:
    """LAST_ADMINISTRATOR if there would be none without this one. True only with the lock held."""
    if await tx.scalar(IS_LAST, {"user_id": user_id}):
        raise LastAdministrator
