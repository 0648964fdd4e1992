"""Worlds made by chance, through the RPCs: a workspace with a little of everything, guests in it, and another one.

Each id, name, address, handle and text in it is written down with whether the guest shares it.
"""

import hashlib
import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import conversation_service_pb2 as conversations

from services.membership import members as membership
from tests.support.deliveries import until
from tests.support.reflected import do
from tests.support.suite import Person, Suite


def word(kind: str) -> str:
    """A text that is nowhere else."""
    return f"{kind}{uuid.uuid4().hex[:14]}"


@dataclass(frozen=True)
class Soul:
    """Somebody in a workspace, with all that tells of them."""

    person: Person
    member_id: str
    handle: str
    title: str

    @property
    def marks(self) -> dict[str, str]:
        """What nobody may be told who does not see them, and what it is."""
        whose = self.person.name
        return {
            self.person.user_id: f"{whose}'s user id",
            self.member_id: f"{whose}'s member id",
            self.person.name: f"{whose}'s name",
            self.person.email: f"{whose}'s address",
            self.handle: f"{whose}'s handle",
            self.title: f"{whose}'s title",
        }


class World:
    """A workspace, and what of it is the guest's to see."""

    def __init__(self, suite: Suite, seed: int) -> None:
        self.suite = suite
        self.chance = random.Random(seed)
        self.marks: dict[str, str] = {}
        self.shared: set[str] = set()
        self.pool: dict[str, list[str]] = {}
        self.places: list[dict[str, str]] = []
        self.granted: list[str] = []
        self.workspace_id = ""
        self.invited_by: Person
        self.far: Soul
        """A full member whom the guest does not see."""

    async def found(self) -> Soul:
        """Makes the workspace; its admin, of whom nothing is written down yet."""
        admin = await self.suite.known(word("Admin"))
        made = await do(self.suite, admin, "membership.WorkspaceService/CreateWorkspace", name=word("house"))
        self.workspace_id, self.invited_by = str(made.workspace.workspace_id), admin
        self.pool["workspace_id"] = [self.workspace_id]
        return Soul(admin, str(made.member.member_id), word("none"), word("none"))

    async def call(self, person: Person, name: str, /, **fields: Any) -> Any:
        """An RPC in the workspace."""
        return await do(self.suite, person, name, workspace_id=self.workspace_id, **fields)

    def mark(self, value: str, what: str, *, shared: bool = False) -> str:
        """A value that only who shares it may be told."""
        self.marks[value] = what
        if shared:
            self.shared.add(value)
        return value

    def note(self, key: str, value: str, what: str, *, shared: bool = False) -> str:
        """The same of a value that requests may have in the fields of this name."""
        self.pool.setdefault(key, []).append(value)
        return self.mark(value, what, shared=shared)

    async def soul(self, name: str, *, shared: bool, admin: bool = False) -> Soul:
        """A full member with a handle and a title."""
        person = await self.suite.known(word(name))
        role = "admin" if admin else "member"
        row = await self.suite.frames["membership"].database.transaction(
            lambda tx: membership.join(tx, workspace_id=self.workspace_id, user_id=person.user_id, role=role)
        )
        assert row is not None
        soul = Soul(person, str(row.id), word("h"), word("title"))
        member = members.Member(
            workspace_id=self.workspace_id, member_id=soul.member_id, handle=soul.handle, title=soul.title
        )
        mask = FieldMask(paths=["handle", "title"])
        await do(self.suite, person, "membership.MemberService/UpdateMember", member=member, update_mask=mask)
        self.know(soul, shared=shared)
        return soul

    def know(self, soul: Soul, *, shared: bool) -> None:
        """Writes down all that tells of somebody."""
        self.marks |= soul.marks
        if shared:
            self.shared |= set(soul.marks)
        for key, value in (
            ("member_id", soul.member_id),
            ("user_id", soul.person.user_id),
            ("handle", soul.handle),
            ("email", soul.person.email),
            ("email_prefix", soul.person.email),
        ):
            self.pool.setdefault(key, []).append(value)

    async def channel(self, owner: Soul, *others: Soul, private: bool, shared: bool) -> str:
        """A channel in which its owner and others take part, with what belongs into one."""
        visibility = conversations.VISIBILITY_PRIVATE if private else conversations.VISIBILITY_PUBLIC
        name, topic = word("chan"), word("topic")
        made = await self.call(
            owner.person,
            "messaging.ConversationService/CreateChannel",
            name=name,
            topic=topic,
            visibility=visibility,
        )
        conversation_id = str(made.conversation.conversation_id)
        for other in others:
            await self.of(
                owner.person, "ConversationService/AddParticipant", conversation_id, member_id=other.member_id
            )
        self.mark(name, "a channel's name", shared=shared)
        self.mark(topic, "a channel's topic", shared=shared)
        self.conversation(conversation_id, shared=shared)
        await self.talk(conversation_id, [owner, *others], shared=shared)
        return conversation_id

    def conversation(self, conversation_id: str, *, shared: bool) -> None:
        """Writes down a conversation."""
        self.note("conversation_id", conversation_id, "a conversation's id", shared=shared)

    async def of(self, person: Person, rpc: str, conversation_id: str, **fields: Any) -> Any:
        """An RPC of messaging about a conversation."""
        return await self.call(person, f"messaging.{rpc}", conversation_id=conversation_id, **fields)

    async def talk(self, conversation_id: str, people: list[Soul], *, shared: bool) -> None:
        """Messages with answers, mentions, reactions, a file, and reading."""
        file_id = await self.file(people[0].person, conversation_id, shared=shared)
        last = ""
        for number, soul in enumerate(people):
            text = word("text")
            message = await self.of(
                soul.person,
                "MessageService/SendMessage",
                conversation_id,
                client_message_id=str(uuid.uuid4()),
                text=f"{text} @{people[0].handle}",
                mentions={"member_ids": [people[0].member_id]},
                reply_to_message_id=last,
                file_ids=[file_id] if number == 0 else [],
            )
            last, seq = str(message.message.message_id), message.message.seq
            self.note("message_id", last, "a message's id", shared=shared)
            self.note("query", text, "a message's text", shared=shared)
            await self.of(soul.person, "ReactionService/AddReaction", conversation_id, message_id=last, emoji="👍")
            await self.of(soul.person, "ReadStateService/MarkRead", conversation_id, seq=seq)
            place = {"conversation_id": conversation_id, "message_id": last, "file_id": file_id}
            self.places.append({**place, "workspace_id": self.workspace_id, "member_id": soul.member_id})

    async def file(self, person: Person, conversation_id: str, *, shared: bool) -> str:
        """A file that is ready."""
        name, data = word("file"), word("content").encode()
        made = await self.of(
            person,
            "FileService/CreateUpload",
            conversation_id,
            name=name,
            mime_type="application/pdf",
            size_bytes=len(data),
            sha256=hashlib.sha256(data).digest(),
        )
        file_id = str(made.file.file_id)
        await self.call(person, "messaging.FileService/UploadChunk", file_id=file_id, offset=0, data=data)
        self.mark(name, "a file's name", shared=shared)
        self.mark(data.decode(), "a file's content", shared=shared)
        return self.note("file_id", file_id, "a file's id", shared=shared)

    async def passer_by(self, conversation_id: str, *, writes: bool, owner: Soul) -> Soul:
        """Somebody who took part, reacted, read and was mentioned, and has left; whoever wrote is seen as an author."""
        soul = await self.soul("passer", shared=writes)
        await self.of(soul.person, "ConversationService/JoinConversation", conversation_id)
        listed = await self.of(soul.person, "MessageService/ListMessages", conversation_id)
        first = listed.messages[0]
        await self.of(
            soul.person, "ReactionService/AddReaction", conversation_id, message_id=first.message_id, emoji="🎉"
        )
        await self.of(soul.person, "ReadStateService/MarkRead", conversation_id, seq=first.seq)
        if writes:
            await self.talk(conversation_id, [soul], shared=True)
        else:
            await self.of(
                owner.person,
                "MessageService/SendMessage",
                conversation_id,
                client_message_id=str(uuid.uuid4()),
                text="hello",
                mentions={"member_ids": [soul.member_id]},
            )
        await self.of(soul.person, "ConversationService/LeaveConversation", conversation_id)
        return soul

    async def guest(self, *channel_ids: str, name: str = "guest", shared: bool) -> Soul:
        """A guest."""
        made = await self.call(
            self.invited_by,
            "guest.GuestInviteService/CreateGuestInvite",
            conversation_ids=channel_ids,
            guest_ttl=Duration(seconds=86400),
        )
        self.note("invite_id", made.invite.invite_id, "a guest link's id")
        person = await self.suite.known(word(name))
        redeemed = await do(self.suite, person, "guest.GuestInviteService/RedeemGuestInvite", token=made.token)
        soul = Soul(person, redeemed.guest.member_id, word("none"), word("none"))
        self.know(soul, shared=shared)
        return soul

    def move(self, member_id: str, *, expire_in: str, grace_in: str = "24 hours") -> None:
        """Sets a guest's expiry relative to the clock, and the grace's end relative to the expiry."""
        with self.suite.database("guest") as database:
            database.execute(
                "UPDATE guests SET expire_at = statement_timestamp() + %(expire)s::interval, grace_end_at = "
                "statement_timestamp() + %(expire)s::interval + %(grace)s::interval WHERE member_id = %(id)s",
                {"expire": expire_in, "grace": grace_in, "id": member_id},
            )

    def hidden(self, request_texts: set[str]) -> Mapping[str, str]:
        """What the guest must not be told, but for what they asked with themselves."""
        asked = "\n".join(request_texts)
        return {mark: what for mark, what in self.marks.items() if mark not in self.shared and mark not in asked}


async def populate(world: World) -> Soul:
    """A world with everything in it; the guest through whose eyes it is looked at."""
    boss = await world.found()
    sponsor_seen = world.chance.random() < 0.5
    world.know(boss, shared=sponsor_seen)
    names = [("insider", True), ("insider", True), ("hidden", False), ("hidden", False)]
    first, second, far, away = [await world.soul(name, shared=shared) for name, shared in names]
    world.far = far
    granted = await world.channel(first, second, private=False, shared=True)
    world.granted = [granted]
    if sponsor_seen:
        world.granted.append(await world.channel(boss, first, private=True, shared=True))
    secret = await world.channel(far, away, private=True, shared=False)
    public = await world.channel(away, second, private=False, shared=False)
    await world.passer_by(granted, writes=False, owner=first)
    await world.passer_by(granted, writes=True, owner=first)
    await directs(world, far, away, boss)
    await groups(world, boss, [first, far, away])
    guest = await world.guest(*world.granted, shared=True)
    await world.guest(granted, name="fellow", shared=True)
    locked = await world.guest(granted, name="locked", shared=True)
    world.move(locked.member_id, expire_in="-1 hour")
    ended = await world.guest(granted, name="ended", shared=False)
    world.move(ended.member_id, expire_in="-48 hours")
    await world.guest(public, name="stranger", shared=False)
    for conversation_id in (secret, public):
        assert conversation_id not in world.granted
    await elsewhere(world)
    await search_has_followed(world)
    return guest


async def search_has_followed(world: World) -> None:
    """Else the same question could be answered otherwise a moment later."""
    behind = (
        "SELECT FROM conversations c LEFT JOIN search_positions p ON p.conversation_id = c.id"
        " WHERE c.workspace_id = ANY(%(ids)s::uuid[]) AND c.last_event_seq > coalesce(p.event_seq, 0)"
    )
    ids = list({place["workspace_id"] for place in world.places})
    await until(lambda: not world.suite.rows("messaging", behind, {"ids": ids}))


async def directs(world: World, far: Soul, away: Soul, boss: Soul) -> None:
    """A direct conversation of hidden people, an invitation, a ban and what else an admin has."""
    opened = await world.call(
        far.person, "messaging.ConversationService/OpenDirectConversation", member_ids=[away.member_id]
    )
    world.conversation(opened.conversation.conversation_id, shared=False)
    await world.talk(opened.conversation.conversation_id, [far, away], shared=False)
    address = f"{word('invited')}@example.com"
    made = await world.call(
        boss.person, "membership.InvitationService/CreateInvitation", email=address, role=members.ROLE_MEMBER
    )
    world.note("invitation_id", made.invitation.invitation_id, "an invitation's id")
    world.note("email", address, "an invited address")
    banned = f"{word('banned')}@example.com"
    ban = await world.call(boss.person, "membership.MemberService/BanMember", email=banned)
    world.note("ban_id", ban.ban.ban_id, "a ban's id")
    world.note("email", banned, "a banned address")


async def groups(world: World, boss: Soul, people: list[Soul]) -> None:
    """A group with a conversation and a code, one below it, and a user group."""
    made = await world.call(
        boss.person, "membership.GroupService/CreateGroup", name=world.note("x", word("group"), "x")
    )
    group_id = world.note("group_id", made.group.group_id, "a group's id")
    world.note("role_scheme_id", made.group.role_scheme_id, "a role scheme's id", shared=True)
    below = await world.call(
        boss.person,
        "membership.GroupService/CreateGroup",
        name=world.mark(word("below"), "a group's name"),
        parent_group_id=group_id,
    )
    world.note("group_id", below.group.group_id, "a group's id")
    for soul in people:
        await world.call(
            boss.person,
            "membership.GroupMemberService/AddGroupMember",
            group_id=group_id,
            member_id=soul.member_id,
            role="member",
        )
    name = world.mark(word("rehearsal"), "a group conversation's name")
    made = await world.call(
        boss.person, "messaging.ConversationService/CreateGroupConversation", group_id=group_id, name=name
    )
    world.conversation(made.conversation.conversation_id, shared=False)
    handle = world.note("handle", word("u")[:20], "a user group's handle")
    made = await world.call(
        boss.person,
        "membership.UserGroupService/CreateUserGroup",
        handle=handle,
        name=world.mark(word("crew"), "a user group's name"),
    )
    user_group_id = world.note("user_group_id", made.user_group.user_group_id, "a user group's id")
    await world.call(
        boss.person,
        "membership.UserGroupService/SetUserGroupMembers",
        user_group_id=user_group_id,
        member_ids=[soul.member_id for soul in people],
    )


async def elsewhere(world: World) -> None:
    """Another workspace, of which nothing is shared."""
    stranger = await world.suite.known(word("elsewhere"))
    name = world.mark(word("other"), "another workspace's name")
    made = await do(world.suite, stranger, "membership.WorkspaceService/CreateWorkspace", name=name)
    home, world.workspace_id = world.workspace_id, str(made.workspace.workspace_id)
    world.note("workspace_id", world.workspace_id, "another workspace's id")
    soul = Soul(stranger, str(made.member.member_id), word("none"), word("none"))
    world.know(soul, shared=False)
    await world.channel(soul, private=False, shared=False)
    world.workspace_id = home
