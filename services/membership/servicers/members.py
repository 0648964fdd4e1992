"""guildhall.membership.v1.MemberService."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from guildhall.membership.v1 import member_service_pb2 as pb
from guildhall.membership.v1 import member_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import masks
from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import NotFound
from services.chassis.idempotency import Repeatable, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.membership import bans, joining, members, refusals, removals, suspensions, wire, workspaces
from services.membership.capabilities import BAN_MEMBERS, READ, REMOVE_MEMBERS, SUSPEND_MEMBERS, UPDATE_ROLES
from services.membership.guest_sight import Sight
from services.membership.invitations import Presenter
from services.membership.peers import Identity
from services.membership.revisions import raise_access_revision
from services.membership.servicers.guest_members import GuestMemberRpcs
from services.membership.servicers.member_reads import MemberReadRpcs

Answer = TypeVar("Answer", bound=Message)


class MemberService(GuestMemberRpcs, MemberReadRpcs, rpc.MemberServiceServicer):
    """The people of a workspace."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity, sight: Sight) -> None:
        GuestMemberRpcs.__init__(self, database, secret, identity)
        MemberReadRpcs.__init__(self, database, secret, identity, sight)

    async def AddMember(self, request: pb.AddMemberRequest, context: Any) -> pb.AddMemberResponse:
        """A service account makes somebody a member."""
        found = await self._identity.find(str(UUID(request.user_id)))
        workspace_id = str(UUID(request.workspace_id))
        over = await self._find_over(workspace_id, str(UUID(request.user_id)))

        async def access(tx: AsyncConnection) -> None:
            await workspaces.lock(tx, workspace_id)

        async def add(tx: AsyncConnection, _granted: None) -> pb.AddMemberResponse:
            if found is None:
                raise NotFound
            person, _name = found
            stay = await members.find_active(tx, workspace_id=workspace_id, user_id=person.user_id)
            is_over = stay is not None and joining.is_unchanged(over, stay)
            ended = await removals.end_guest(tx, stay) if stay is not None and is_over else []
            row = await joining.add(
                tx,
                workspace_id=workspace_id,
                user_id=person.user_id,
                normalized_email=person.verified_email,
                role=wire.ROLE_NAMES[request.role],
                ended=ended,
            )
            if ended:
                await raise_access_revision(tx, workspace_id, "guest_removed")
            return pb.AddMemberResponse(member=wire.member(row))

        answer = await once(self._database, self._secret, request, pb.AddMemberResponse, access=access, work=add)
        return pb.AddMemberResponse(member=await self._named(answer.member))

    async def _find_over(self, workspace_id: str, user_id: str) -> Row[Any] | None:
        """Somebody's stay as a guest whose time is over."""
        stay = await self._database.read(lambda tx: members.find_active(tx, workspace_id=workspace_id, user_id=user_id))
        return await self._sight.find_over(stay)

    async def UpdateMember(self, request: pb.UpdateMemberRequest, context: Any) -> pb.UpdateMemberResponse:
        """Handle and title: one's own, or of somebody of lower rank."""
        paths, member = masks.paths(request.update_mask, allowed=("handle", "title")), request.member
        caller = await self._caller(member.workspace_id)
        await self._sight.require_writer(caller)

        async def update(tx: AsyncConnection, actor: Row[Any]) -> pb.UpdateMemberResponse:
            row = await members.update(
                tx,
                actor,
                member_id=member.member_id,
                etag=member.etag,
                title=member.title if "title" in paths else None,
                handle=member.handle if "handle" in paths else None,
            )
            return pb.UpdateMemberResponse(member=wire.member(row))

        answer = await self._change(
            request, pb.UpdateMemberResponse, member.workspace_id, READ, "member.updated", update
        )
        # After the change: what a guest is told of is not newer than what they see.
        return pb.UpdateMemberResponse(member=await self._sight.one(caller, await self._named(answer.member)))

    async def UpdateMemberRole(self, request: pb.UpdateMemberRoleRequest, context: Any) -> pb.UpdateMemberRoleResponse:
        """An admin gives somebody else another role."""

        async def update(tx: AsyncConnection, actor: Row[Any]) -> pb.UpdateMemberRoleResponse:
            row = await members.update_role(
                tx,
                actor,
                member_id=request.member_id,
                role=wire.ROLE_NAMES[request.role],
                etag=request.etag,
                reason=request.reason,
            )
            return pb.UpdateMemberRoleResponse(member=wire.member(row))

        answer = await self._change(
            request, pb.UpdateMemberRoleResponse, request.workspace_id, UPDATE_ROLES, "member.role_updated", update
        )
        return pb.UpdateMemberRoleResponse(member=await self._named(answer.member))

    async def SuspendMember(self, request: pb.SuspendMemberRequest, context: Any) -> pb.SuspendMemberResponse:
        """An admin takes everything from somebody else, for now."""

        async def suspend(tx: AsyncConnection, actor: Row[Any]) -> pb.SuspendMemberResponse:
            row = await suspensions.suspend(tx, actor, member_id=request.member_id, reason=request.reason)
            return pb.SuspendMemberResponse(member=wire.member(row))

        answer = await self._change(
            request, pb.SuspendMemberResponse, request.workspace_id, SUSPEND_MEMBERS, "member.suspended", suspend
        )
        return pb.SuspendMemberResponse(member=await self._named(answer.member))

    async def ReinstateMember(self, request: pb.ReinstateMemberRequest, context: Any) -> pb.ReinstateMemberResponse:
        """An admin gives it back."""

        async def reinstate(tx: AsyncConnection, actor: Row[Any]) -> pb.ReinstateMemberResponse:
            row = await suspensions.reinstate(tx, actor, member_id=request.member_id, reason=request.reason)
            return pb.ReinstateMemberResponse(member=wire.member(row))

        answer = await self._change(
            request, pb.ReinstateMemberResponse, request.workspace_id, SUSPEND_MEMBERS, "member.reinstated", reinstate
        )
        return pb.ReinstateMemberResponse(member=await self._named(answer.member))

    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: Any) -> pb.RemoveMemberResponse:
        """An admin ends somebody else's membership."""

        async def remove(tx: AsyncConnection, actor: Row[Any]) -> pb.RemoveMemberResponse:
            await removals.remove(tx, actor, member_id=request.member_id, reason=request.reason)
            return pb.RemoveMemberResponse()

        return await self._change(
            request, pb.RemoveMemberResponse, request.workspace_id, REMOVE_MEMBERS, "member.removed", remove
        )

    async def LeaveWorkspace(self, request: pb.LeaveWorkspaceRequest, context: Any) -> pb.LeaveWorkspaceResponse:
        """Somebody ends their own membership."""
        user_id = current_call().user_id
        await self._require_present(request.workspace_id)

        async def access(tx: AsyncConnection) -> Row[Any] | None:
            return await members.access_to_end(tx, workspace_id=request.workspace_id, user_id=user_id, capability=READ)

        async def leave(tx: AsyncConnection, member: Row[Any] | None) -> pb.LeaveWorkspaceResponse:
            if member is None:
                raise NotFound
            await removals.leave(tx, member)
            return pb.LeaveWorkspaceResponse()

        call = once(self._database, self._secret, request, pb.LeaveWorkspaceResponse, access=access, work=leave)
        return await refusals.audited(self._database, "member.left", request.workspace_id, call)

    async def BanMember(self, request: pb.BanMemberRequest, context: Any) -> pb.BanMemberResponse:
        """An admin keeps somebody out: a member, a person, an address."""
        subject = await self._subject(request)
        expire_at = (
            wire.read_time(request.expire_time, field="expire_time") if request.HasField("expire_time") else None
        )
        terms = bans.Terms(request.reason, expire_at)

        async def ban(tx: AsyncConnection, actor: Row[Any]) -> pb.BanMemberResponse:
            if request.WhichOneof("subject") == "email":
                row = await bans.ban_address(tx, actor, terms, email=request.email)
            elif request.WhichOneof("subject") == "member_id":
                row = await bans.ban_member(
                    tx, actor, terms, member_id=request.member_id, normalized_email=subject.verified_email
                )
            else:
                row = await bans.ban_person(
                    tx, actor, terms, user_id=request.user_id, normalized_email=subject.verified_email
                )
            return pb.BanMemberResponse(ban=wire.ban(row))

        answer = await self._change(
            request, pb.BanMemberResponse, request.workspace_id, BAN_MEMBERS, "member.banned", ban
        )
        names = await self._identity.names([answer.ban.user_id] if answer.ban.was_member else [])
        answer.ban.user_name = names.get(answer.ban.user_id, "")
        return answer

    async def UnbanMember(self, request: pb.UnbanMemberRequest, context: Any) -> pb.UnbanMemberResponse:
        """An admin lifts a ban."""

        async def lift(tx: AsyncConnection, actor: Row[Any]) -> pb.UnbanMemberResponse:
            await bans.lift(tx, str(actor.workspace_id), ban_id=request.ban_id, reason=request.reason)
            return pb.UnbanMemberResponse()

        return await self._change(
            request, pb.UnbanMemberResponse, request.workspace_id, BAN_MEMBERS, "member.unbanned", lift
        )

    async def ListBannedMembers(
        self, request: pb.ListBannedMembersRequest, context: Any
    ) -> pb.ListBannedMembersResponse:
        """A page of the bans, for those who ban."""
        user_id, workspace_id = current_call().user_id, str(UUID(request.workspace_id))
        scope = ("ListBannedMembers", user_id, workspace_id)
        key = page_key(self._secret, scope, request.page_token)
        before, size = str(key[0]) if key else None, page_size(request.page_size)
        read = self._database.read(
            lambda tx: bans.list_page(tx, workspace_id=workspace_id, user_id=user_id, before=before, size=size + 1)
        )
        rows = await refusals.told(self._database, self._sight, workspace_id, read)
        page = rows[:size]
        names = await self._identity.names(str(row.user_id) for row in page if row.was_member)
        return pb.ListBannedMembersResponse(
            bans=[wire.ban(row, name=names.get(str(row.user_id), "")) for row in page],
            next_page_token=page_token(self._secret, scope, [str(page[-1].id)]) if len(rows) > size else "",
        )

    async def _subject(self, request: pb.BanMemberRequest) -> Presenter:
        """Who is to be banned, as identity knows them; without an address where it does not, or need not."""
        user_id: str | None = request.user_id
        if request.member_id:
            user_id = await self._database.read(
                lambda tx: bans.find_user(tx, workspace_id=request.workspace_id, member_id=request.member_id)
            )
        found = await self._identity.find(user_id) if user_id else None
        return found[0] if found else Presenter(user_id or "", None)

    async def _change(
        self,
        request: Repeatable,
        answer_class: type[Answer],
        workspace_id: str,
        capability: str,
        action: str,
        work: Callable[[AsyncConnection, Row[Any]], Awaitable[Answer]],
    ) -> Answer:
        """Does what a member with a capability asks for, once; a refusal goes into the log under the action's name."""
        user_id = current_call().user_id

        async def access(tx: AsyncConnection) -> Row[Any]:
            return await members.access_workspace(tx, workspace_id=workspace_id, user_id=user_id, capability=capability)

        call = once(self._database, self._secret, request, answer_class, access=access, work=work)
        call = refusals.told(self._database, self._sight, workspace_id, call)
        return await refusals.audited(self._database, action, workspace_id, call)

    async def _caller(self, workspace_id: str) -> Row[Any]:
        """The caller's membership, which is asked about before the transaction. Errors: NotFound."""
        named = {"workspace_id": workspace_id, "user_id": current_call().user_id}
        found = await self._database.read(lambda tx: members.find_active(tx, **named))
        if found is None:
            raise NotFound
        return found

    async def _require_present(self, workspace_id: str) -> None:
        """NotFound for a guest who has ended; who is no member finds the answer of the call that ended it."""
        try:
            caller = await self._caller(workspace_id)
        except NotFound:
            return
        await self._sight.require_present(caller)

    async def _named(self, member: pb.Member) -> pb.Member:
        """The member with their name, which is asked after the transaction and is in no stored answer."""
        names = await self._identity.names([member.user_id])
        member.name = names.get(member.user_id, "")
        return member
