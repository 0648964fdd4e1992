"""What `guildhall admin export-user` gives: everything that identity holds of a person but secrets."""

import json
import uuid

from guildhall.identity.v1 import user_service_pb2_grpc as rpc

from services.chassis.database import Database
from services.identity import exports
from services.identity.tables import METADATA
from tests.service.test_identity_departures import fill
from tests.support.administrators import administrator
from tests.support.suite import Suite

OF_NOBODY = {"open_invites", "service_accounts", "service_keys", "inbox"}
NOT_FOR_LONG = {"outbox"}
SECRET = {
    "users": {"password_hash"},
    "accounts": {"sealed_refresh_token", "sealed_access_token", "sealed_id_token", "sealed_by"},
    "verification_tokens": {"token_hash", "pending_password_hash"},
    "adapter_verification_tokens": {"token_hash"},
    "idempotency_keys": {"key_hash", "request_mac", "answer", "sealed_answer"},
    "session_tokens": {"token_hash", "session_id", "generation", "claimed_at"},
}
"""By table, what is left out: secrets, their hashes, and what only says the same again."""
NAMES = {"users": "user", "idempotency_keys": "repeatable_calls"}


async def test_an_export_holds_every_column_of_every_table_that_is_about_people(suite: Suite) -> None:
    root, person = await administrator(suite), await suite.person(f"Xenia{uuid.uuid4().hex[:8]}")
    await fill(suite, suite.stub(rpc.UserServiceStub), person, root)
    database = Database(suite.settings("identity"))
    try:
        exported = await database.transaction(lambda tx: exports.export(tx, user_id=person.user_id))
    finally:
        await database.close()

    for name in set(METADATA.tables) - OF_NOBODY - NOT_FOR_LONG - {"session_tokens"}:
        part = exported[NAMES.get(name, name)]
        row = part if isinstance(part, dict) else part[0]
        # Its own id bears the name of what it is of; whose it is, is what was asked.
        columns = {column.name for column in METADATA.tables[name].columns} - {"id", "user_id", "caller"}
        assert columns - set(row) == SECRET.get(name, set()), name
    assert exported["user"]["email"] == person.email
    assert f"next-{person.email}" in {token["pending_email"] for token in exported["verification_tokens"]}
    assert "$argon2" not in json.dumps(exported, default=str)


async def test_an_export_is_of_one_person_only(suite: Suite) -> None:
    person, other = await suite.person("Ada"), await suite.person("Bob")
    database = Database(suite.settings("identity"))
    try:
        exported = await database.transaction(lambda tx: exports.export(tx, user_id=person.user_id))
    finally:
        await database.close()
    text = json.dumps(exported, default=str)
    assert person.session_id in text
    assert other.user_id not in text
    assert other.email not in text
    assert other.session_id not in text
