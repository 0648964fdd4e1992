"""Nobody learns who is known: the same bytes, and the same statements, whatever state an address is in.

How long they take is measured by `make load` (A3).
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from guildhall.identity.v1 import auth_service_pb2 as pb
from sqlalchemy import event

from services.chassis.call import CURRENT
from services.chassis.frame import Frame
from tests.support.identities import execute, identity, new_address, open_invite
from tests.support.suite import PASSWORD, Suite, refusal_of

STATES = ["verified", "signed up", "disabled", "without a password", "unknown"]
RPCS = ["SignUp", "SignIn", "StartEmailSignIn", "ResendVerification", "RequestPasswordReset"]


@pytest.fixture(params=["open", "invited"])
async def place(suite: Suite, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Frame, Any]]:
    """A process of identity of this test's own, so that only its statements are counted."""
    async with identity(suite, sign_up=request.param) as found:
        yield found


async def address_that_is(suite: Suite, state: str) -> str:
    """A new address in a state."""
    address = new_address()
    if state == "unknown":
        return address
    if state == "signed up":
        stub = suite.stub(_auth())
        await stub.SignUp(pb.SignUpRequest(email=address, password=PASSWORD, name="Ada"), timeout=10)
        return address
    person = await suite.person()
    change = {
        "disabled": "disabled_at = statement_timestamp()",
        "without a password": "password_hash = NULL",
    }.get(state)
    if change:
        execute(suite, f"UPDATE users SET {change} WHERE id = %s", person.user_id)
    return person.email


def _auth() -> Any:
    from guildhall.identity.v1 import auth_service_pb2_grpc

    return auth_service_pb2_grpc.AuthServiceStub


@contextmanager
def statements_of_calls(frame: Frame) -> Iterator[list[str]]:
    """What is sent to the database for calls, in order; not what goes on in the background."""
    sent: list[str] = []
    database = frame.database
    engines = [pool.sync_engine for pool in (database._transactions, database._statements, database._hot)]

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if CURRENT.get(None) is not None:
            sent.append(" ".join(statement.split()))

    def note_commit(_connection: Any) -> None:
        if CURRENT.get(None) is not None:
            sent.append("COMMIT")

    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
        event.listen(engine, "commit", note_commit)
    try:
        yield sent
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)
            event.remove(engine, "commit", note_commit)


async def asked(auth: Any, rpc: str, address: str, invite: str) -> tuple[Any, ...]:
    """All that a client sees of an answer, be it a refusal."""
    fields = {
        "SignUp": {"password": PASSWORD, "name": "Ada", "invite_token": invite},
        "SignIn": {"password": "a wrong password"},
    }.get(rpc, {})
    call = getattr(auth, rpc)(getattr(pb, f"{rpc}Request")(email=address, **fields), timeout=10)
    try:
        answer = (await call).SerializeToString()
    except grpc.aio.AioRpcError as error:
        return (refusal_of(error), [key for key, _ in error.trailing_metadata() or ()])
    return (answer, await call.initial_metadata(), await call.trailing_metadata())


@pytest.mark.parametrize("rpc", RPCS)
async def test_bytes_and_statements_are_the_same_whoever_has_the_address(
    suite: Suite, place: tuple[Frame, Any], rpc: str
) -> None:
    frame, auth = place
    seen, sent = [], []
    invite = open_invite(suite)
    # The first call of a process prepares its connections and Valkey's scripts.
    for state in ["unknown", *STATES]:
        address = await address_that_is(suite, state)
        with statements_of_calls(frame) as statements:
            seen.append(await asked(auth, rpc, address, invite))
        sent.append(statements)
    assert len({repr(answer) for answer in seen}) == 1
    assert all(statements == sent[1] for statements in sent[1:])
    assert len(sent[1]) >= 2


async def test_a_right_password_is_seen_in_the_statements(suite: Suite, place: tuple[Frame, Any]) -> None:
    frame, auth = place
    person = await suite.person()
    sent = []
    for password in (PASSWORD, "a wrong password"):
        with statements_of_calls(frame) as statements:
            call = auth.SignIn(pb.SignInRequest(email=person.email, password=password), timeout=10)
            if password == PASSWORD:
                await call
            else:
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
        sent.append(statements)
    assert sent[0] != sent[1]
