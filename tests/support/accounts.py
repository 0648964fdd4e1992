"""Service accounts, as identity keeps them: rows of its tables, and a token signed by the suite's own key."""

import secrets
import time
import uuid
from collections.abc import Collection

import jwt

from tests.support.suite import Person, Suite


def service_account(suite: Suite, *scopes: str, workspace_ids: Collection[str] = ()) -> Person:
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
        "exp": now + 300,
        "scope": " ".join(scopes),
        "workspaces": list(workspace_ids),
    }
    path = max(suite.stack.settings.layout.keys.glob("*.pem"))
    token = jwt.encode(claims, path.read_bytes(), algorithm="EdDSA", headers={"kid": path.stem})
    return Person(account_id, "", "Provisioning", key_id, "", token)
