"""SessionService: one's devices and what happened on them, and the question that every service asks of each call."""

from typing import Any
from uuid import UUID

from guildhall.identity.v1 import session_service_pb2 as pb
from guildhall.identity.v1 import session_service_pb2_grpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.idempotency import no_access_needed, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.identity import security, sessions, verification, wire
from services.identity.administrators import require_administrator
from services.identity.uses import Uses


class SessionService(session_service_pb2_grpc.SessionServiceServicer):
    """Everybody's own sessions. Another's is NOT_FOUND, for administrators too."""

    def __init__(self, database: Database, secret: SecretKey, uses: Uses) -> None:
        self._database = database
        self._secret = secret
        self._uses = uses

    async def GetCurrentSession(
        self, request: pb.GetCurrentSessionRequest, context: Any
    ) -> pb.GetCurrentSessionResponse:
        """The session of the bearer token."""
        call = current_call()
        row = await self._database.read(
            lambda tx: sessions.access(tx, user_id=call.user_id, session_id=call.session_id)
        )
        return pb.GetCurrentSessionResponse(session=wire.session(row, current=True))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        """A page of those that are alive."""
        call = current_call()
        scope = ("ListSessions", call.user_id)
        key = page_key(self._secret, scope, request.page_token)
        size = page_size(request.page_size)
        before = str(key[0]) if key else None
        rows = await self._database.read(
            lambda tx: sessions.list_page(tx, user_id=call.user_id, before=before, size=size + 1)
        )
        page = rows[:size]
        return pb.ListSessionsResponse(
            sessions=[wire.session(row, current=str(row.id) == call.session_id) for row in page],
            next_page_token=page_token(self._secret, scope, [str(page[-1].id)]) if len(rows) > size else "",
        )

    async def RevokeSession(self, request: pb.RevokeSessionRequest, context: Any) -> pb.RevokeSessionResponse:
        """Ends a session, also the one of the call."""
        user_id = current_call().user_id

        async def revoke(tx: AsyncConnection, session: Row[Any]) -> pb.RevokeSessionResponse:
            await sessions.revoke(tx, user_id=user_id, session_id=str(session.id))
            await _forget_change_of_address(tx, user_id)
            return pb.RevokeSessionResponse()

        return await once(
            self._database,
            self._secret,
            request,
            pb.RevokeSessionResponse,
            access=lambda tx: sessions.access(tx, user_id=user_id, session_id=request.session_id),
            work=revoke,
        )

    async def RevokeSessions(self, request: pb.RevokeSessionsRequest, context: Any) -> pb.RevokeSessionsResponse:
        """Ends all sessions, or all others."""
        call = current_call()
        keep = call.session_id if request.keep_current else None

        async def revoke(tx: AsyncConnection, _granted: None) -> pb.RevokeSessionsResponse:
            count = await sessions.revoke_others(tx, user_id=call.user_id, keep_session_id=keep)
            await _forget_change_of_address(tx, call.user_id)
            return pb.RevokeSessionsResponse(revoked_count=count)

        return await once(
            self._database,
            self._secret,
            request,
            pb.RevokeSessionsResponse,
            access=no_access_needed,
            work=revoke,
        )

    async def ListSecurityEvents(
        self, request: pb.ListSecurityEventsRequest, context: Any
    ) -> pb.ListSecurityEventsResponse:
        """A page of the caller's log, or of anybody's for an administrator."""
        caller_id = current_call().user_id
        user_id = str(UUID(request.user_id)) if request.user_id else caller_id
        scope = ("ListSecurityEvents", caller_id, user_id)
        size = page_size(request.page_size)

        async def read(tx: AsyncConnection) -> tuple[list[Row[Any]], bool]:
            if user_id != caller_id:
                await require_administrator(tx, user_id=caller_id)
            key = page_key(self._secret, scope, request.page_token)
            before = str(key[0]) if key else None
            rows = await security.list_page(tx, user_id=user_id, before=before, size=size + 1)
            return list(rows[:size]), len(rows) > size

        page, has_more = await self._database.read(read)
        return pb.ListSecurityEventsResponse(
            events=[wire.security_event(row) for row in page],
            next_page_token=page_token(self._secret, scope, [str(page[-1].id)]) if has_more else "",
        )

    async def CheckSessions(self, request: pb.CheckSessionsRequest, context: Any) -> pb.CheckSessionsResponse:
        """One statement, whatever the number."""
        return pb.CheckSessionsResponse(alive=await self._uses.check(request.session_ids))


async def _forget_change_of_address(tx: AsyncConnection, user_id: str) -> None:
    """The session that is ended may be a thief's, who asked for an address of theirs before."""
    await verification.drop(tx, user_id=user_id, purposes=["change_email"])
