"""The two questions that every service asks of identity."""

from collections.abc import Mapping, Sequence

import grpc
import jwt
from google.protobuf.json_format import MessageToDict
from guildhall.identity.v1 import auth_service_pb2, auth_service_pb2_grpc, session_service_pb2, session_service_pb2_grpc

from services.chassis.channel import ask


class Identity:
    """identity, as the frame sees it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._sessions: session_service_pb2_grpc.SessionServiceAsyncStub
        self._auth: auth_service_pb2_grpc.AuthServiceAsyncStub
        self._sessions = session_service_pb2_grpc.SessionServiceStub(channel)
        self._auth = auth_service_pb2_grpc.AuthServiceStub(channel)

    async def check_sessions(self, session_ids: Sequence[str], timeout_seconds: float) -> Sequence[bool]:
        """For each session, whether it is alive at this instant."""
        distinct = list(dict.fromkeys(session_ids))
        request = session_service_pb2.CheckSessionsRequest(session_ids=distinct)
        answer = await ask(self._sessions.CheckSessions, request, timeout_seconds=timeout_seconds)
        alive = dict(zip(distinct, answer.alive, strict=True))
        return [alive[session_id] for session_id in session_ids]

    async def public_keys(self) -> Mapping[str, jwt.PyJWK]:
        """The keys that access tokens are signed with, by key id."""
        answer = await ask(self._auth.GetJwks, auth_service_pb2.GetJwksRequest())
        return {key.kid: jwt.PyJWK(MessageToDict(key)) for key in answer.keys}
