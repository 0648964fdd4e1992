"""Whether each service answers, asked again and again through the gateway."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable

import grpc
from guildhall.guest.v1 import guest_service_pb2 as guests
from guildhall.guest.v1 import guest_service_pb2_grpc as guests_rpc
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from tests.faults.people import Person

_CALL_SECONDS = 1.5
_PAUSE_SECONDS = 0.02


class Prober:
    """One question to one service at a time."""

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._ask = ask
        self._answered: list[float] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to ask."""
        self._answered = [time.monotonic()]
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Asks no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def longest_silence(self, *, since: float) -> float:
        """The longest time between two answers, from `since` to now."""
        times = [since, *(moment for moment in self._answered if moment > since), time.monotonic()]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    async def _run(self) -> None:
        while True:
            try:
                await self._ask()
                self._answered.append(time.monotonic())
            except grpc.aio.AioRpcError as error:
                # The service itself has said no: that is an answer.
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    self._answered.append(time.monotonic())
            await asyncio.sleep(_PAUSE_SECONDS)


def questions(
    person: Person, workspace_id: str, conversation_id: str, *, seconds: float | None = _CALL_SECONDS
) -> dict[str, Callable[[], Awaitable[object]]]:
    """One for each service. Guest's own answer is NOT_FOUND."""
    page = messages.ListMessagesRequest(workspace_id=workspace_id, conversation_id=conversation_id, page_size=1)
    listing = members.ListMembersRequest(workspace_id=workspace_id, page_size=1)
    guest = guests.GetGuestRequest(workspace_id=workspace_id, member_id=str(uuid.uuid4()))

    def asking(stub: object, method: str, request: object) -> Callable[[], Awaitable[object]]:
        return lambda: person.call(stub, method, request, seconds=seconds)

    return {
        "identity": asking(auth_rpc.AuthServiceStub, "GetJwks", auth.GetJwksRequest()),
        "membership": asking(members_rpc.MemberServiceStub, "ListMembers", listing),
        "guest": asking(guests_rpc.GuestServiceStub, "GetGuest", guest),
        "messaging": asking(messages_rpc.MessageServiceStub, "ListMessages", page),
    }


def probers(person: Person, workspace_id: str, conversation_id: str) -> dict[str, Prober]:
    """One for each service."""
    asked = questions(person, workspace_id, conversation_id)
    return {service: Prober(question) for service, question in asked.items()}
