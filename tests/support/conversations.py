"""A workspace in which all kinds of conversations are made, and people who come and go in them."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.membership.v1 import group_ban_service_pb2 as group_bans
from guildhall.membership.v1 import group_ban_service_pb2_grpc as group_bans_rpc
from guildhall.membership.v1 import group_member_service_pb2 as group_members
from guildhall.membership.v1 import group_member_service_pb2_grpc as group_members_rpc
from guildhall.membership.v1 import group_service_pb2 as groups
from guildhall.membership.v1 import group_service_pb2_grpc as groups_rpc
from guildhall.membership.v1 import member_service_pb2 as members_pb
from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as pb
from guildhall.messaging.v1 import conversation_service_pb2_grpc as rpc

from services.membership import members as membership
from tests.service.test_membership_workspaces import somebody
from tests.service.test_messaging_conversations import Room
from tests.support.deliveries import deliver, until
from tests.support.suite import Person, Suite


class Hall(Room):
    """A room with a door for everybody."""

    async def ask(self, method: str, *, by: Person | None = None, **fields: Any) -> Any:
        """An RPC of ConversationService, by the admin unless `by` says otherwise."""
        request = getattr(pb, f"{method}Request")
        if "workspace_id" in request.DESCRIPTOR.fields_by_name:
            fields = {"workspace_id": self.workspace_id, **fields}
        stub = self.suite.stub(rpc.ConversationServiceStub)
        return await (by or self.admin).call(getattr(stub, method), request(**fields))

    async def of(self, method: str, conversation_id: str, *, by: Person | None = None, **fields: Any) -> Any:
        """The same about a conversation."""
        return await self.ask(method, by=by, conversation_id=conversation_id, **fields)

    async def update(self, conversation_id: str, *paths: str, by: Person | None = None, **fields: Any) -> Any:
        """UpdateConversation."""
        wanted = pb.Conversation(workspace_id=self.workspace_id, conversation_id=conversation_id, **fields)
        mask = FieldMask(paths=paths or fields.keys())
        return (await self.ask("UpdateConversation", by=by, conversation=wanted, update_mask=mask)).conversation

    async def get(self, conversation_id: str, *, by: Person | None = None) -> pb.Conversation:
        """GetConversation."""
        found = (await self.of("GetConversation", conversation_id, by=by)).conversation
        assert isinstance(found, pb.Conversation)
        return found

    async def direct(self, *member_ids: str, by: Person | None = None, **fields: Any) -> pb.Conversation:
        """OpenDirectConversation."""
        found = (await self.ask("OpenDirectConversation", by=by, member_ids=member_ids, **fields)).conversation
        assert isinstance(found, pb.Conversation)
        return found

    async def taking_part(self, conversation_id: str, *, by: Person | None = None) -> set[str]:
        """The member ids of who takes part."""
        listed = (await self.of("ListParticipants", conversation_id, by=by)).participants
        return {participant.member_id for participant in listed}

    async def newcomer(self, name: str, role: str = "member") -> tuple[Person, str]:
        """Somebody who is a member by now; without a mail, of which many take their time."""
        person = await somebody(self.suite, name)
        row = await self.suite.frames["membership"].database.transaction(
            lambda tx: membership.join(tx, workspace_id=self.workspace_id, user_id=person.user_id, role=role)
        )
        assert row is not None
        return person, str(row.id)

    async def change_member(self, method: str, member_id: str, **fields: Any) -> None:
        """An RPC of MemberService, by the admin."""
        request = getattr(members_pb, f"{method}Request")(workspace_id=self.workspace_id, member_id=member_id, **fields)
        await self.admin.call(getattr(self.suite.stub(members_rpc.MemberServiceStub), method), request)

    async def group(self, name: str = "Choir", *, by: Person | None = None, **fields: Any) -> str:
        """A new group's id."""
        request = groups.CreateGroupRequest(workspace_id=self.workspace_id, name=name, **fields)
        made = await (by or self.admin).call(self.suite.stub(groups_rpc.GroupServiceStub).CreateGroup, request)
        return str(made.group.group_id)

    async def of_group(self, method: str, group_id: str, *, by: Person | None = None, **fields: Any) -> Any:
        """An RPC of GroupMemberService."""
        request = getattr(group_members, f"{method}Request")
        stub = self.suite.stub(group_members_rpc.GroupMemberServiceStub)
        named = request(workspace_id=self.workspace_id, group_id=group_id, **fields)
        return await (by or self.admin).call(getattr(stub, method), named)

    async def put_into(self, group_id: str, member_id: str, role: str = "member") -> None:
        """Somebody is in a group now; nobody is told."""
        await self.of_group("AddGroupMember", group_id, member_id=member_id, role=role)

    async def take_out(self, group_id: str, member_id: str) -> None:
        """Somebody is not in it any more, which is acknowledged; nobody is told."""
        await self.of_group("RemoveGroupMember", group_id, member_id=member_id)

    async def ban_from(self, group_id: str, user_id: str) -> None:
        """Somebody is banned from a group, which is acknowledged."""
        stub = self.suite.stub(group_bans_rpc.GroupBanServiceStub)
        request = group_bans.BanUserRequest(workspace_id=self.workspace_id, group_id=group_id, user_id=user_id)
        await self.admin.call(stub.BanUser, request)

    async def group_conversation(self, group_id: str, *, by: Person | None = None, **fields: Any) -> str:
        """A new conversation's id, once everybody in the group is written down."""
        fields = {"name": "Rehearsals", **fields}
        made = await self.ask("CreateGroupConversation", by=by, group_id=group_id, **fields)
        await self.until_synced(group_id)
        return str(made.conversation.conversation_id)

    async def tell_changed(self, group_id: str) -> None:
        """membership tells that somebody joined or left, and it is written down."""
        changed = events.GroupMembershipChanged(workspace_id=self.workspace_id, group_ids=[group_id])
        await deliver(self.suite, events.Event(group_membership_changed=changed), source="membership", to="messaging")
        await self.until_synced(group_id)

    async def until_synced(self, group_id: str) -> None:
        """Waits until what is written down is the latest."""
        query = "SELECT bool_and(synced = generation) FROM group_syncs WHERE group_id = %s"
        await until(lambda: self.rows(query, group_id) == [(True,)])

    @contextmanager
    def held_back(self, group_id: str) -> Iterator[None]:
        """Nothing of a group is written down for a while: its row is locked, and the sweep skips those."""
        with self.suite.database("messaging_owner") as database, database.transaction():
            database.execute("SELECT FROM group_syncs WHERE group_id = %s FOR UPDATE", [group_id])
            yield

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of messaging's tables; none for a statement without any."""
        return self.suite.rows("messaging", statement, values)


async def new_hall(suite: Suite) -> Hall:
    """A workspace of a test's own."""
    made = await Hall.make(suite)
    assert isinstance(made, Hall)
    return made


def key() -> str:
    """A request id that nobody has used."""
    return str(uuid.uuid4())
