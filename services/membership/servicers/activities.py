"""guildhall.membership.v1.ActivityService."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from typing import Any
from uuid import UUID

from guildhall.membership.v1 import activity_service_pb2 as pb
from guildhall.membership.v1 import activity_service_pb2_grpc as rpc
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import LimitReached, Overloaded
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.chassis.sessions import Sessions
from services.membership import activity_chains, activity_exports, activity_reads, members, wire_activities
from services.membership.peers import Identity


class ActivityService(rpc.ActivityServiceServicer):
    """What was done in a workspace, and by whom."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity, sessions: Sessions) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity
        self._sessions = sessions
        self._exports: Counter[str] = Counter()
        self._verifying = asyncio.Lock()

    async def ListActivities(self, request: pb.ListActivitiesRequest, context: Any) -> pb.ListActivitiesResponse:
        """A page, newest first; the names of people are asked for afterwards."""
        user_id, workspace_id = current_call().user_id, str(UUID(request.workspace_id))
        chosen = wire_activities.read_filter(request.filter)
        scope = ("ListActivities", user_id, workspace_id, request.filter.SerializeToString(deterministic=True).hex())
        key = page_key(self._secret, scope, request.page_token)
        before, size = int(key[0]) if key else None, page_size(request.page_size)
        page = await self._database.read(
            lambda tx: activity_reads.list_before(
                tx, chosen, workspace_id=workspace_id, user_id=user_id, before=before, size=size
            )
        )
        people = {str(person) for row in page.rows for person in (row.actor_user_id, row.target_user_id) if person}
        names = await self._identity.names(people)
        return pb.ListActivitiesResponse(
            activities=[wire_activities.activity(row, names=names) for row in page.rows],
            next_page_token=page_token(self._secret, scope, [page.next]) if page.next else "",
        )

    async def ExportActivities(
        self, request: pb.ExportActivitiesRequest, context: Any
    ) -> AsyncGenerator[pb.ExportActivitiesResponse, None]:
        """All of them, oldest first."""
        call, chosen = current_call(), wire_activities.read_filter(request.filter)

        async def read_after(number: int) -> activity_reads.Page:
            page = await self._database.read(
                lambda tx: activity_reads.list_after(
                    tx,
                    chosen,
                    workspace_id=request.workspace_id,
                    user_id=call.user_id,
                    after=number,
                    size=activity_exports.ROWS,
                )
            )
            # After it was read: whose session ended before that gets none of it.
            await self._sessions.require_alive(call.session_id, deadline=call.deadline)
            return page

        with self._exporting(call.user_id):
            async with contextlib.aclosing(activity_exports.export(read_after, request.after_number)) as parts:
                async for part in parts:
                    yield part

    @contextlib.contextmanager
    def _exporting(self, user_id: str) -> Iterator[None]:
        """Counts an export in and out. Errors: LimitReached."""
        if self._exports[user_id] >= activity_exports.MOST_OF_USER:
            raise LimitReached("exports", most=activity_exports.MOST_OF_USER, retry_after_seconds=1)
        self._exports[user_id] += 1
        try:
            yield
        finally:
            self._exports[user_id] -= 1
            if not self._exports[user_id]:
                del self._exports[user_id]

    async def VerifyActivityChain(
        self, request: pb.VerifyActivityChainRequest, context: Any
    ) -> pb.VerifyActivityChainResponse:
        """For who may read it."""
        user_id, workspace_id = current_call().user_id, str(UUID(request.workspace_id))

        async def require_reader(tx: AsyncConnection) -> None:
            caller = await members.find_active(tx, workspace_id=workspace_id, user_id=user_id)
            activity_reads.require_reader(caller)

        await self._database.read(require_reader)
        if self._verifying.locked():
            raise Overloaded("Another chain is being verified here; come back later.")
        async with self._verifying:
            progress = await activity_chains.verify(
                self._database.read, workspace_id, after=request.after_number, after_hash=request.after_hash
            )
        return pb.VerifyActivityChainResponse(
            intact=not progress.fault,
            first_broken_number=progress.broken,
            fault=progress.fault,
            verified_number=progress.number,
            verified_hash=progress.hash,
            head_number=progress.head,
        )
