"""SessionService: the question that every service asks before every call."""

from typing import Any

from guildhall.identity.v1 import session_service_pb2 as pb
from guildhall.identity.v1 import session_service_pb2_grpc

from services.chassis.database import Database
from services.identity import sessions


class SessionService(session_service_pb2_grpc.SessionServiceServicer):
    """Sessions, from outside."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def CheckSessions(self, request: pb.CheckSessionsRequest, context: Any) -> pb.CheckSessionsResponse:
        """One statement, whatever the number."""
        alive = await self._database.read(lambda tx: sessions.check(tx, session_ids=request.session_ids))
        return pb.CheckSessionsResponse(alive=alive)
