"""Accounts at providers that users sign in with, and the tokens that came with them, sealed.

A user's credentials are their password, once the address is proven that it goes with, and their accounts. The link that
StartEmailSignIn mails is none: it is a mailbox's, and whether the product offers it identity cannot know. So who has no
password keeps their last account.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import uuid_utils
from cryptography.fernet import InvalidToken
from guildhall.identity.v1 import adapter_service_pb2 as pb
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.errors import NotFound
from services.identity import security
from services.identity.errors import AccountLinkedElsewhere, LastCredential
from services.identity.seals import Ring

FIRST_ID = "00000000-0000-0000-0000-000000000000"
BATCH = 200

# Of two who unlink at once, the second is to count what the first has left.
LOCK_USER = text("""
    SELECT password_hash IS NOT NULL AND email_verified_at IS NOT NULL AS has_password FROM users
    WHERE id = :user_id FOR NO KEY UPDATE
""")
# All of the row is replaced: tokens of two consents do not go together.
LINK = text("""
    INSERT INTO accounts
        (id, user_id, type, provider, provider_account_id, sealed_refresh_token, sealed_access_token, sealed_id_token,
         sealed_by, expires_at, token_type, scope, session_state)
    VALUES
        (:id, :user_id, :type, :provider, :provider_account_id, :refresh_token, :access_token, :id_token,
         :sealed_by, :expires_at, :token_type, :scope, :session_state)
    ON CONFLICT (provider, provider_account_id) DO UPDATE
    SET type = EXCLUDED.type, sealed_refresh_token = EXCLUDED.sealed_refresh_token,
        sealed_access_token = EXCLUDED.sealed_access_token, sealed_id_token = EXCLUDED.sealed_id_token,
        sealed_by = EXCLUDED.sealed_by, expires_at = EXCLUDED.expires_at, token_type = EXCLUDED.token_type,
        scope = EXCLUDED.scope, session_state = EXCLUDED.session_state, updated_at = statement_timestamp()
    WHERE accounts.user_id = EXCLUDED.user_id
    RETURNING id, user_id, type, provider, provider_account_id, expires_at, token_type, scope, session_state, created_at
""")
UNLINK = text("""
    DELETE FROM accounts WHERE id = :account_id AND user_id = :user_id
    RETURNING id, user_id, type, provider, provider_account_id, expires_at, token_type, scope, session_state
""")
HAS_ACCOUNT = text("SELECT EXISTS (SELECT FROM accounts WHERE user_id = :user_id)")
FIND = text("""
    SELECT id, user_id FROM accounts WHERE provider = :provider AND provider_account_id = :provider_account_id
""")
LIST = text("""
    SELECT id, user_id, type, provider, provider_account_id, scope, created_at FROM accounts
    WHERE user_id = :user_id AND id > :after ORDER BY id LIMIT :size
""")
# Not <>, which no index serves: this is asked each minute, and mostly finds nothing.
FIND_SEALED_BY_OTHERS = text("""
    SELECT id, sealed_refresh_token, sealed_access_token, sealed_id_token FROM accounts
    WHERE (sealed_by < :seal_id OR sealed_by > :seal_id) AND id > :after
    ORDER BY id LIMIT :size FOR NO KEY UPDATE SKIP LOCKED
""")
RESEAL = text("""
    UPDATE accounts
    SET sealed_refresh_token = :refresh_token, sealed_access_token = :access_token, sealed_id_token = :id_token,
        sealed_by = :seal_id
    WHERE id = :id
""")


@dataclass(frozen=True, slots=True)
class Resealed:
    """What became of a batch of accounts that another key had sealed."""

    last_id: str
    sealed: int
    lost: int
    """Sealed by a key that is no longer in the file."""


async def link(tx: AsyncConnection, *, ring: Ring, account: pb.AdapterAccount) -> Row[Any]:
    """Links an account to its user; what is linked to that user already gets what came now in place of what it had.

    Errors: NOT_FOUND (no such user), ACCOUNT_LINKED_ELSEWHERE.
    """
    if (await tx.execute(LOCK_USER, {"user_id": account.user_id})).one_or_none() is None:
        raise NotFound
    row = {name: getattr(account, name) for name in ("user_id", "type", "provider", "provider_account_id")}
    for name in ("expires_at", "token_type", "scope", "session_state"):
        row[name] = _given(account, name)
    for name in ("refresh_token", "access_token", "id_token"):
        row[name] = ring.seal(_given(account, name))
    sealed = any(row[name] is not None for name in ("refresh_token", "access_token", "id_token"))
    row |= {"id": str(uuid_utils.uuid7()), "sealed_by": ring.seal_id if sealed else None}
    linked = (await tx.execute(LINK, row)).one_or_none()
    if linked is None:
        raise AccountLinkedElsewhere
    if str(linked.id) == row["id"]:
        await _record(tx, "account_linked", user_id=account.user_id)
    return linked


async def unlink(tx: AsyncConnection, *, user_id: str, account_id: str) -> Row[Any] | None:
    """Takes one of the user's accounts away and returns it; None if the user has no such account.

    Errors: LAST_CREDENTIAL.
    """
    user = (await tx.execute(LOCK_USER, {"user_id": user_id})).one_or_none()
    account = (await tx.execute(UNLINK, {"user_id": user_id, "account_id": account_id})).one_or_none()
    if user is None or account is None:
        return None
    if not user.has_password and not await tx.scalar(HAS_ACCOUNT, {"user_id": user_id}):
        raise LastCredential
    await _record(tx, "account_unlinked", user_id=user_id)
    return account


async def find(tx: AsyncConnection, *, provider: str, provider_account_id: str) -> Row[Any] | None:
    """Whose an account is, and its id."""
    row = {"provider": provider, "provider_account_id": provider_account_id}
    return (await tx.execute(FIND, row)).one_or_none()


async def list_page(tx: AsyncConnection, *, user_id: str, after: str | None, size: int) -> Sequence[Row[Any]]:
    """The user's accounts in the order in which they were linked."""
    row = {"user_id": user_id, "after": after or FIRST_ID, "size": size}
    return (await tx.execute(LIST, row)).all()


async def reseal(tx: AsyncConnection, *, ring: Ring, after: str) -> Resealed | None:
    """Seals anew the next accounts that another key had sealed; None if there are none. What is lost stays as it is."""
    row = {"seal_id": ring.seal_id, "after": after, "size": BATCH}
    found = (await tx.execute(FIND_SEALED_BY_OTHERS, row)).all()
    if not found:
        return None
    renewed = [again for account in found if (again := _renewed(ring, account))]
    if renewed:
        await tx.execute(RESEAL, renewed)
    return Resealed(str(found[-1].id), len(renewed), len(found) - len(renewed))


def _renewed(ring: Ring, account: Row[Any]) -> dict[str, object] | None:
    try:
        return {
            "id": account.id,
            "seal_id": ring.seal_id,
            "refresh_token": ring.renew(account.sealed_refresh_token),
            "access_token": ring.renew(account.sealed_access_token),
            "id_token": ring.renew(account.sealed_id_token),
        }
    except InvalidToken:
        return None


def _given(account: pb.AdapterAccount, name: str) -> Any:
    return getattr(account, name) if account.HasField(name) else None  # type: ignore[arg-type]


async def _record(tx: AsyncConnection, kind: str, *, user_id: str) -> None:
    call = current_call()
    await security.record(
        tx,
        kind,
        user_id=user_id,
        session_id=call.session_id if call.user_id else None,
        service_account_id=call.service_account_id or None,
    )
