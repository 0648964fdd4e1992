"""The checks that every hot path stands on cost one statement, however many questions travel together.

That the statements read by index, whatever is stored, is measured by `make load` (S6).
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from guildhall.guest.v1 import guest_access_service_pb2 as guests
from guildhall.guest.v1 import guest_access_service_pb2_grpc as guests_rpc
from guildhall.guest.v1 import guest_service_pb2
from guildhall.identity.v1 import session_service_pb2 as sessions
from guildhall.identity.v1 import session_service_pb2_grpc as sessions_rpc
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import access_service_pb2_grpc as access_rpc

from tests.service.test_messaging_conversations import Room
from tests.support.statements import statements_sent
from tests.support.suite import Suite

MANY = 200


@pytest.fixture(scope="module")
async def room(suite: Suite) -> Room:
    """A workspace of these tests' own."""
    made = await Room.make(suite)
    assert isinstance(made, Room)
    return made


async def check_sessions(room: Room, count: int) -> Sequence[bool]:
    """Which of so many sessions are alive; only the last one is."""
    ids = [*_strangers(count - 1), room.admin.session_id]
    stub = room.suite.stub(sessions_rpc.SessionServiceStub, certificate="messaging")
    return list((await stub.CheckSessions(sessions.CheckSessionsRequest(session_ids=ids), timeout=10)).alive)


async def check_access(room: Room, count: int) -> Sequence[bool]:
    """Who of so many people may send; only the last one may. Asked by user id and by member id in turns."""
    asked = [
        {"user_id": stranger} if number % 2 else {"member_id": stranger}
        for number, stranger in enumerate(_strangers(count - 1))
    ]
    questions = [
        access.AccessQuestion(workspace_id=room.workspace_id, capability="messages.send", **subject)
        for subject in (*asked, {"user_id": room.admin.user_id})
    ]
    stub = room.suite.stub(access_rpc.AccessServiceStub, certificate="messaging")
    answer = await stub.BatchCheckAccess(access.BatchCheckAccessRequest(questions=questions), timeout=10)
    return [verdict.allowed for verdict in answer.verdicts]


async def access_revisions(room: Room, count: int) -> Sequence[bool]:
    """Which of so many workspaces have a revision; only the last one is a workspace."""
    ids = [*_strangers(count - 1), room.workspace_id]
    stub = room.suite.stub(access_rpc.AccessServiceStub, certificate="messaging")
    answer = await stub.GetAccessRevisions(access.GetAccessRevisionsRequest(workspace_ids=ids), timeout=10)
    return [revision > 0 for revision in answer.access_revisions]


async def check_guests(room: Room, count: int) -> Sequence[bool]:
    """Who of so many guests stands in the channel; only the last one is a guest."""
    _, guest = await room.guest()
    questions = [
        guests.GuestQuestion(workspace_id=room.workspace_id, member_id=member_id, conversation_id=room.channel_id)
        for member_id in (*_strangers(count - 1), guest.member_id)
    ]
    stub = room.suite.stub(guests_rpc.GuestAccessServiceStub, certificate="messaging")
    answer = await stub.BatchCheckGuests(guests.BatchCheckGuestsRequest(questions=questions), timeout=10)
    assert answer.verdicts[-1].state == guest_service_pb2.GUEST_STATE_ACTIVE
    return [verdict.granted for verdict in answer.verdicts]


def _strangers(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


@pytest.mark.parametrize(
    ("method", "ask"),
    [
        ("CheckSessions", check_sessions),
        ("BatchCheckAccess", check_access),
        ("GetAccessRevisions", access_revisions),
        ("BatchCheckGuests", check_guests),
    ],
)
async def test_a_batch_of_200_is_one_statement_as_a_batch_of_one_is(
    method: str, ask: Callable[[Room, int], Any], room: Room
) -> None:
    texts = set()
    for count in (1, MANY):
        with statements_sent() as sent:
            assert await ask(room, count) == [False] * (count - 1) + [True]
        own = [statement for statement in sent if statement.rpc == method]
        assert len(own) == 1, [statement.text for statement in own]
        texts.add(own[0].text)
    assert len(texts) == 1
