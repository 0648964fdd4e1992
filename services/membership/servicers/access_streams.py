"""guildhall.membership.v1.AccessService: revisions for peers, and the stream for products."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

from guildhall.membership.v1 import access_service_pb2 as pb
from guildhall.membership.v1 import access_service_pb2_grpc as rpc

from services.chassis.call import current_call
from services.chassis.database import Database
from services.membership import revisions
from services.membership.guest_sight import Sight
from services.membership.watches import Watches


class AccessStreamRpcs(rpc.AccessServiceServicer):
    """What tells that an answer given before is out of date."""

    def __init__(self, database: Database, watches: Watches, sight: Sight) -> None:
        self._database = database
        self._watches = watches
        self._sight = sight

    async def WatchMembership(
        self, request: pb.WatchMembershipRequest, context: Any
    ) -> AsyncGenerator[pb.WatchMembershipResponse, None]:
        """A service account follows a workspace."""
        watch = self._watches.watch(
            str(UUID(request.workspace_id)), request.after_number, session_id=current_call().session_id
        )
        async with contextlib.aclosing(watch) as responses:
            async for response in responses:
                yield response

    async def GetAccessRevisions(
        self, request: pb.GetAccessRevisionsRequest, context: Any
    ) -> pb.GetAccessRevisionsResponse:
        """The revisions, in the order of the workspaces."""
        found = await self._database.read(lambda tx: revisions.access_revisions(tx, request.workspace_ids), hot=True)
        return pb.GetAccessRevisionsResponse(access_revisions=found)

    async def BumpAccessRevision(
        self, request: pb.BumpAccessRevisionRequest, context: Any
    ) -> pb.BumpAccessRevisionResponse:
        """guest or messaging took sight away."""
        source = current_call().peer
        revision = await self._database.transaction(
            lambda tx: revisions.bump(tx, request.workspace_id, event_id=request.event_id, source=source)
        )
        return pb.BumpAccessRevisionResponse(access_revision=revision)
