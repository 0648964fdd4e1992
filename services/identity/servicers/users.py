"""UserService: what is known of people."""

from typing import Any

from guildhall.identity.v1 import user_service_pb2 as pb
from guildhall.identity.v1 import user_service_pb2_grpc

from services.chassis.call import current_call
from services.chassis.database import Database
from services.identity import users, wire


class UserService(user_service_pb2_grpc.UserServiceServicer):
    """Oneself, and for other services anybody."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def GetUser(self, request: pb.GetUserRequest, context: Any) -> pb.GetUserResponse:
        """The caller."""
        user_id = current_call().user_id
        row = await self._database.read(lambda tx: users.access_user(tx, user_id=user_id))
        return pb.GetUserResponse(user=wire.user(row))

    async def BatchGetUsers(self, request: pb.BatchGetUsersRequest, context: Any) -> pb.BatchGetUsersResponse:
        """On the calling service's word: who may know of whom is decided there."""
        rows = await self._database.read(lambda tx: users.list_users(tx, user_ids=request.user_ids))
        return pb.BatchGetUsersResponse(users=[wire.peer_user(row) for row in rows])
