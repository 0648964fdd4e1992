"""clients/python at the real identity: a session outlives whoever gives up while its token is renewed."""

import asyncio
from typing import Any

import grpc
from guildhall.client import Client
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc

from deploy.stack import certificates
from tests.service.test_guest_redemption import until
from tests.support.identities import execute
from tests.support.suite import Suite


def client_of(suite: Suite) -> Client:
    """A client at identity's own port, with the gateway's certificate."""
    files = certificates.files(suite.stack.settings.layout.certificates, "gateway")
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    options = [("grpc.ssl_target_name_override", "identity"), ("grpc.enable_http_proxy", 0)]
    address = f"127.0.0.1:{suite.stack.settings.ports.service('identity')}"
    return Client(address, channel_credentials=credentials, options=options)


async def test_a_call_that_is_given_up_while_its_token_is_renewed_loses_no_session(suite: Suite) -> None:
    person = await suite.person("Ada")
    first = "SELECT claimed_at IS NOT NULL FROM session_tokens WHERE session_id = %s AND generation = 1"

    async def is_exchanged() -> bool:
        return execute(suite, first, person.session_id) == [(True,)]

    async with client_of(suite) as client:
        client.resume(person.session_token)
        get: Any = client.stub(users_rpc.UserServiceStub).GetUser
        with suite.database("identity") as database, database.transaction():
            database.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", [person.session_id])

            async def waits() -> bool:
                query = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
                return execute(suite, query, database.info.backend_pid) != [(0,)]

            calling = asyncio.create_task(client.call(get, users.GetUserRequest()))
            await until(waits, "the exchange waits for the lock")
            calling.cancel()
            await asyncio.wait([calling])
            assert calling.cancelled()
        await until(is_exchanged, "the token is exchanged")
        # As much later as it takes for another use of that token to end the session.
        aged = "UPDATE session_tokens SET claimed_at = claimed_at - interval '1 minute' WHERE session_id = %s"
        execute(suite, aged, person.session_id)
        answer: Any = await client.call(get, users.GetUserRequest())
        assert answer.user.user_id == person.user_id
