"""guildhall.messaging.v1.MessageService: searching."""

import asyncio
from dataclasses import replace
from typing import Any

from guildhall.messaging.v1 import message_service_pb2 as pb
from guildhall.messaging.v1 import message_service_pb2_grpc as rpc

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import NotFound, PermissionDenied
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.messaging import mentions, reactions, searches, wire
from services.messaging.access import Access, Viewer
from services.messaging.guest_sight import Reactors, Sights
from services.messaging.ids import uuid_of
from services.messaging.peers import Membership

MOST_AT_ONCE = 2
"""Of a process: each keeps one of its four connections for up to 0.2 s, and sends need them too."""


class MessageSearchRpcs(rpc.MessageServiceServicer):
    """Finding messages, and whom a message would reach."""

    def __init__(
        self, database: Database, secret: SecretKey, *, access: Access, membership: Membership, sights: Sights
    ) -> None:
        self._database = database
        self._secret = secret
        self._access = access
        self._membership = membership
        self._sights = sights
        self._searching = asyncio.Semaphore(MOST_AT_ONCE)

    async def SearchMessages(self, request: pb.SearchMessagesRequest, context: Any) -> pb.SearchMessagesResponse:
        """Asks what may be seen, reads that, and asks again: who lost access before the reading gets nothing."""
        call, workspace_id = current_call(), uuid_of(request.workspace_id)
        criteria = searches.criteria_of(request)
        scope = (call.rpc, call.user_id, workspace_id, criteria.scope)
        key = page_key(self._secret, scope, request.page_token)
        before = str(key[0]) if key else None
        async with asyncio.timeout(call.remaining()), self._searching:
            viewer = await self._access.require_viewer(
                call, workspace_id=workspace_id, conversation_ids=criteria.conversation_ids
            )
            if viewer.granted is not None:
                return await self._search_as_guest(viewer, criteria, before, request, scope)
            found = await self._database.read(
                lambda tx: searches.find(
                    tx, viewer=viewer, criteria=criteria, before=before, limit=page_size(request.page_size)
                )
            )
        # Of the groups of what was found, and of no others.
        group_ids = {row.group_id for row in found.rows if row.group_id}
        now = await self._access.require_viewer(call, workspace_id=workspace_id, group_ids=group_ids)
        return pb.SearchMessagesResponse(
            messages=[
                wire.shown(row, workspace_id=workspace_id, conversation_id=row.conversation_id)
                for row in found.rows
                if now.still_sees(row.conversation_id, row.group_id, viewer)
            ],
            next_page_token=page_token(self._secret, scope, [found.before]) if found.before else "",
        )

    async def _search_as_guest(
        self,
        viewer: Viewer,
        criteria: searches.Criteria,
        before: str | None,
        request: pb.SearchMessagesRequest,
        scope: tuple[str, ...],
    ) -> pb.SearchMessagesResponse:
        """The same, as if whom they do not see were nowhere mentioned and had never reacted."""
        call, workspace_id = current_call(), viewer.workspace_id
        named = {"workspace_id": workspace_id, "member_id": viewer.member_id}
        mentioned = criteria.mentioned_member_id
        if mentioned and mentioned not in await self._sights.visible(**named, member_ids=[mentioned]):
            return pb.SearchMessagesResponse()
        # Found by their other qualities: a page that is short for want of a reaction tells of who has reacted.
        looked_for = replace(criteria, emoji_key="")
        found = await self._database.read(
            lambda tx: searches.find(
                tx, viewer=viewer, criteria=looked_for, before=before, limit=page_size(request.page_size)
            )
        )
        shown = [
            wire.shown(
                row,
                workspace_id=workspace_id,
                conversation_id=row.conversation_id,
                since=viewer.since(row.conversation_id),
            )
            for row in found.rows
        ]
        reactors: Reactors = await self._sights.read_reactors(shown)
        now = await self._access.require_viewer(call, workspace_id=workspace_id, group_ids=())
        if not now.still_sees("", None, viewer):
            raise NotFound
        seen = await self._access.seen_among(now, {row.conversation_id for row in found.rows})
        shown = [
            message
            for message, row in zip(shown, found.rows, strict=True)
            if row.conversation_id in seen and now.is_in_history(row.conversation_id, row.created_at)
        ]
        await self._sights.show(now, shown, reactors=reactors)
        if criteria.emoji_key:
            shown = [
                each for each in shown if criteria.emoji_key in {reactions.key_of(r.emoji) for r in each.reactions}
            ]
        return pb.SearchMessagesResponse(
            messages=shown, next_page_token=page_token(self._secret, scope, [found.before]) if found.before else ""
        )

    async def ResolveMentions(self, request: pb.ResolveMentionsRequest, context: Any) -> pb.ResolveMentionsResponse:
        """Asks who is meant, reads who takes part, and asks at last whether the caller may know."""
        call = current_call()
        place_ids = {
            "workspace_id": uuid_of(request.workspace_id),
            "conversation_id": uuid_of(request.conversation_id),
        }
        viewer = await self._access.require_writer(call, **place_ids)
        names = list(dict.fromkeys(handle for handle in request.handles if not mentions.means_everybody(handle)))
        expanded = dict(
            zip(names, await self._membership.expand_handles(names, workspace_id=viewer.workspace_id), strict=True)
            if names
            else ()
        )
        meant = {member.member_id for handle in expanded.values() for member in handle.members}
        place = await self._database.read(
            lambda tx: mentions.look(tx, viewer=viewer, conversation_id=place_ids["conversation_id"], member_ids=meant)
        )
        now = await self._access.require_writer(call, **place_ids)
        seen = None
        if viewer.granted is not None:
            named = {"workspace_id": viewer.workspace_id, "member_id": viewer.member_id}
            seen = await self._sights.visible(**named, member_ids=meant)
        if place is None or now.member_id != viewer.member_id:
            raise NotFound
        if not now.allowed:
            raise PermissionDenied
        return pb.ResolveMentionsResponse(mentions=mentions.resolved(request.handles, expanded, place=place, seen=seen))
