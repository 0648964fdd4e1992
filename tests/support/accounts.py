"""Service accounts, as identity keeps them: rows of its tables, and a token signed by the suite's own key."""

import secrets
import time
import uuid
from collections.abc import Collection

import jwt

from tests.support.suite import Person, Suite


def service_account(suite: Suite, *scopes: str, workspace_ids: Collection[str] = (), seconds: int = 300) -> Person:
    """A caller who is a service account, bound to workspaces if any are named."""
    account_id, key_id = str(uuid.uuid4()), str(uuid.uuid4())
    with suite.database("identity_owner") as database:
        database.execute(
            "INSERT INTO service_accounts (id, name, scopes, workspace_ids)"
            " VALUES (%s, 'Provisioning', %s, %s::uuid[])",
            (account_id, list(scopes), list(workspace_ids)),
        )
        database.execute(
            "INSERT INTO service_keys (id, service_account_id, key_hash) VALUES (%s, %s, %s)",
            (key_id, account_id, secrets.token_bytes(32)),
        )
    now = int(time.time())
    claims = {
        "iss": "guildhall",
        "aud": "guildhall",
        "sub": account_id,
        "sid": key_id,
        "jti": str(uuid.uuid4()),
        "iat": now,
        "exp": now + seconds,
        "scope": " ".join(scopes),
        "workspaces": list(workspace_ids),
    }
    return Person(account_id, "", "Provisioning", key_id, "", _signed(suite, claims))


def signed_again(suite: Suite, token: str, *, seconds: int) -> str:
    """The same token as if it had been given so that it is good for some seconds from now; before now if negative."""
    claims = jwt.decode(token, options={"verify_signature": False})
    now = int(time.time())
    return _signed(suite, {**claims, "iat": min(now, now + seconds - 300), "exp": now + seconds})


def _signed(suite: Suite, claims: dict[str, object]) -> str:
    path = max(suite.stack.settings.layout.keys.glob("*.pem"))
    return jwt.encode(claims, path.read_bytes(), algorithm="EdDSA", headers={"kid": path.stem})
