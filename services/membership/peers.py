"""What membership asks of identity: who people are. It asks nobody whether something is allowed."""

from collections.abc import Iterable, Mapping

import grpc
from guildhall.identity.v1 import user_service_pb2, user_service_pb2_grpc

from services.chassis.channel import ask
from services.chassis.errors import SessionEnded
from services.membership.invitations import Presenter


class Identity:
    """identity, as membership sees it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._users: user_service_pb2_grpc.UserServiceAsyncStub = user_service_pb2_grpc.UserServiceStub(channel)

    async def names(self, user_ids: Iterable[str]) -> Mapping[str, str]:
        """The names of up to 1 000 people by user id; who no longer exists is left out. Errors: PeerUnavailable."""
        return {user.user_id: user.name for user in await self._ask(user_ids)}

    async def presenter(self, user_id: str) -> tuple[Presenter, str]:
        """A caller with their verified address, and their name. Errors: PeerUnavailable; SessionEnded if deleted."""
        found = await self.find(user_id)
        if found is None:
            raise SessionEnded
        return found

    async def find(self, user_id: str) -> tuple[Presenter, str] | None:
        """Anybody with their verified address, and their name; None if nobody has the id. Errors: PeerUnavailable."""
        for user in await self._ask([user_id]):
            verified = user.normalized_email if user.HasField("email_verify_time") else None
            return Presenter(user_id, verified or None), user.name
        return None

    async def is_administrator(self, user_id: str) -> bool:
        """Whether somebody is a system administrator. Errors: PeerUnavailable."""
        return any(user.system_admin for user in await self._ask([user_id]))

    async def _ask(self, user_ids: Iterable[str]) -> list[user_service_pb2.User]:
        distinct = list(dict.fromkeys(user_ids))
        if not distinct:
            return []
        request = user_service_pb2.BatchGetUsersRequest(user_ids=distinct)
        return list((await ask(self._users.BatchGetUsers, request)).users)
