"""A workspace with one of everything in it, and what makes another one of each when it is used up."""

import hashlib
import itertools
import time
import uuid
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import conversation_service_pb2 as conversations

from services.chassis import contracts
from services.identity import verification
from services.membership import invitations
from tests.support.accounts import service_account, signed_again
from tests.support.reflected import do
from tests.support.suite import PASSWORD, Person, Suite

COUNT = itertools.count(1)
LASTING = 3_600
"""Seconds that tokens are good for here: longer than it takes to go through all RPCs on a slow machine."""
CONTENT = b"content"
UPLOAD = {
    "name": "a.pdf",
    "mime_type": "application/pdf",
    "size_bytes": len(CONTENT),
    "sha256": hashlib.sha256(CONTENT).digest(),
}
CREW = [{"role": "captain", "rank": 2, "capabilities": ["*"]}, {"role": "hand", "rank": 1}]


def word(kind: str) -> str:
    """A text that is nowhere else, and short enough for a handle."""
    return f"{kind}{next(COUNT)}{uuid.uuid4().hex[:10]}"


def in_days(days: int) -> Timestamp:
    """A time from now."""
    return Timestamp(seconds=int(time.time()) + days * 86_400)


def all_scopes() -> list[str]:
    """Every scope that an RPC asks for."""
    return sorted({rpc.access.scope for rpc in contracts.rpcs().values() if rpc.access.scope})


class Town:
    """Who is there beside the workspaces: the product's own back end, and an administrator of the system."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.app = service_account(suite, *all_scopes(), seconds=LASTING)

    async def prepare(self) -> "Town":
        """The administrator; and somebody who has a password, which the others do not."""
        self.root = await self.administrator()
        self.pat = await self.person("Pat")
        await do(self.suite, self.pat, "identity.AuthService/RequestPasswordReset", email=self.pat.email)
        token = await self.mailed_token(self.pat.user_id, "reset_password")
        await do(self.suite, self.pat, "identity.AuthService/ResetPassword", token=token, new_password=PASSWORD)
        made = await do(
            self.suite, self.root, "identity.ServiceAccountService/CreateServiceAccount", name="A", scopes=["a.b"]
        )
        self.account_id = str(made.service_account.service_account_id)
        key = await do(
            self.suite, self.root, "identity.ServiceAccountService/CreateServiceKey", service_account_id=self.account_id
        )
        self.service_key = str(key.service_key)
        return self

    async def adapter(self, method: str, **fields: Any) -> Any:
        """An RPC of AdapterService, by the back end."""
        return await do(self.suite, self.app, f"identity.AdapterService/{method}", **fields)

    async def user(self, name: str = "Ann") -> tuple[str, str]:
        """Somebody new whom the product made: their id, and their address, which is verified."""
        address = f"{word(name.lower())}@example.com"
        made = await self.adapter("CreateUser", email=address, name=name, email_verified=in_days(-1))
        return str(made.user.id), address

    async def person(self, name: str = "Ann") -> Person:
        """Somebody new, signed in by a mailed link: that takes no password."""
        user_id, address = await self.user(name)
        await do(self.suite, None, "identity.AuthService/StartEmailSignIn", email=address)
        token = await self.mailed_token(user_id, "email_sign_in")
        started = await do(self.suite, None, "identity.AuthService/CompleteEmailSignIn", token=token)
        return Person(
            user_id=user_id,
            email=address,
            name=name,
            session_id=str(started.session.session_id),
            session_token=str(started.tokens.session_token),
            access_token=signed_again(self.suite, str(started.tokens.access_token), seconds=LASTING),
        )

    async def adapter_session(self, user_id: str) -> str:
        """The token of a session that the product keeps."""
        token = word("a-session-token-")
        await self.adapter("CreateSession", session={"session_token": token, "user_id": user_id, "expires": in_days(1)})
        return token

    async def administrator(self) -> Person:
        """Somebody new who is an administrator of the system."""
        person = await self.person("Root")
        query = "UPDATE users SET administrator_since = statement_timestamp() WHERE id = %s"
        self.suite.rows("identity", query, [person.user_id])
        return person

    async def linked(self, user_id: str) -> tuple[str, str]:
        """A provider's account of somebody: its id there, and here."""
        there = word("p")
        account = {"user_id": user_id, "type": "oauth", "provider": "github", "provider_account_id": there}
        made = await do(self.suite, self.app, "identity.AccountService/LinkAccount", account=account)
        return there, str(made.account.account_id)

    async def mailed_token(self, user_id: str, purpose: str) -> str:
        """What the newest mail for a purpose says, without waiting for the mail."""
        query = "SELECT id FROM verification_tokens WHERE user_id = %s AND purpose = %s ORDER BY id DESC LIMIT 1"
        ((token_id,),) = self.suite.rows("identity", query, (user_id, purpose))
        return verification.token_of(self.suite.frames["identity"].secret, str(token_id))


class House:
    """A workspace. `boss` made it, and everything in it."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.suite = town.suite

    async def prepare(self) -> "House":
        """One of everything."""
        self.boss = await self.town.person("Boss")
        made = await do(self.suite, self.boss, "membership.WorkspaceService/CreateWorkspace", name=word("house"))
        self.id, self.boss_id = str(made.workspace.workspace_id), str(made.member.member_id)
        self.bob, self.bob_id = await self.member("Bob")
        self.channel_id, self.second_channel_id = await self.channel(), await self.channel()
        self.message_id = await self.message()
        self.file_id = await self.attached_file()
        self.group_id = await self.group()
        self.child_id = await self.group(parent_group_id=self.group_id)
        self.crew = word("crew")[:20]
        self.user_group_id = await self.user_group(handle=self.crew)
        self.scheme_id = await self.scheme()
        self.guest, self.guest_id = await self.new_guest()
        self.guest_token = await self.guest_link()
        self.code = str((await self.group_invite()).code)
        return self

    async def things(self) -> dict[str, str]:
        """By the kind of thing, the id of one that is here."""
        return {
            "workspace_id": self.id,
            "conversation_id": self.channel_id,
            "message_id": self.message_id,
            "file_id": self.file_id,
            "group_id": self.group_id,
            "user_group_id": self.user_group_id,
            "role_scheme_id": self.scheme_id,
            "member_id": self.bob_id,
            "user_id": self.bob.user_id,
            "session_id": self.bob.session_id,
            "invitation_id": (await self.invitation())[0],
            "invite_id": str((await self.guest_invite()).invite.invite_id),
            "group_invite_id": str((await self.group_invite()).group_invite_id),
            "ban_id": await self.ban(),
        }

    @property
    def workspace(self) -> dict[str, str]:
        """The field that nearly every request has."""
        return {"workspace_id": self.id}

    @property
    def channel_fields(self) -> dict[str, str]:
        """The channel in which most is."""
        return {"workspace_id": self.id, "conversation_id": self.channel_id}

    @property
    def message_fields(self) -> dict[str, str]:
        """The boss's message in it."""
        return {**self.channel_fields, "message_id": self.message_id}

    @property
    def group_fields(self) -> dict[str, str]:
        """The group at the top."""
        return {"workspace_id": self.id, "group_id": self.group_id}

    async def call(self, name: str, /, *, by: Person | None = None, **fields: Any) -> Any:
        """An RPC in the workspace, by the boss unless another is named."""
        return await do(self.suite, by or self.boss, name, workspace_id=self.id, **fields)

    async def join(self, user_id: str, role: str = "member") -> str:
        """Makes somebody a member; their member id."""
        named = {"workspace_id": self.id, "user_id": user_id, "role": members.Role.Value(f"ROLE_{role.upper()}")}
        made = await do(self.suite, self.town.app, "membership.MemberService/AddMember", **named)
        return str(made.member.member_id)

    async def member(self, name: str = "Moe", role: str = "member") -> tuple[Person, str]:
        """Somebody new."""
        person = await self.town.person(name)
        return person, await self.join(person.user_id, role)

    async def member_id(self) -> str:
        """Somebody new, by their member id."""
        return await self.join((await self.town.user())[0])

    async def group_member(self) -> dict[str, str]:
        """Somebody new in the group: the fields that name them there."""
        named = {"group_id": self.group_id, "member_id": await self.member_id()}
        await self.call("membership.GroupMemberService/AddGroupMember", role="member", **named)
        return {**self.workspace, **named}

    async def channel(self) -> str:
        """A public channel."""
        visibility = conversations.VISIBILITY_PUBLIC
        made = await self.call(
            "messaging.ConversationService/CreateChannel", name=word("channel"), visibility=visibility
        )
        return str(made.conversation.conversation_id)

    async def message(self, *, by: Person | None = None, file_ids: tuple[str, ...] = ()) -> str:
        """A message in the channel."""
        fields: dict[str, Any] = {"client_message_id": str(uuid.uuid4()), "text": "hello", "file_ids": file_ids}
        name = "messaging.MessageService/SendMessage"
        made = await self.call(name, by=by, conversation_id=self.channel_id, **fields)
        return str(made.message.message_id)

    async def upload(self, *, by: Person | None = None) -> str:
        """A file that is announced."""
        name = "messaging.FileService/CreateUpload"
        made = await self.call(name, by=by, conversation_id=self.channel_id, **UPLOAD)
        return str(made.file.file_id)

    async def file(self) -> str:
        """A file that is ready."""
        file_id = await self.upload()
        await self.call("messaging.FileService/UploadChunk", file_id=file_id, data=CONTENT)
        return file_id

    async def attached_file(self) -> str:
        """A file that a message holds."""
        file_id = await self.file()
        await self.message(file_ids=(file_id,))
        return file_id

    async def group(self, **fields: str) -> str:
        """A group."""
        made = await self.call("membership.GroupService/CreateGroup", name=word("group"), **fields)
        return str(made.group.group_id)

    async def group_invite(self) -> Any:
        """An invite of the group, for outsiders too."""
        fields: dict[str, Any] = {"role": "member", "workspace_role": members.ROLE_MEMBER}
        made = await self.call("membership.GroupInviteService/CreateGroupInvite", group_id=self.group_id, **fields)
        return made.group_invite

    async def user_group(self, handle: str = "") -> str:
        """A user group, with Bob in it."""
        handle = handle or word("ug")[:20]
        made = await self.call("membership.UserGroupService/CreateUserGroup", handle=handle, name="Crew")
        named = {"user_group_id": str(made.user_group.user_group_id), "member_id": self.bob_id}
        await self.call("membership.UserGroupService/AddUserGroupMember", **named)
        return named["user_group_id"]

    async def scheme(self) -> str:
        """A role scheme."""
        fields: dict[str, Any] = {"name": word("scheme"), "owning_role": "captain", "roles": CREW}
        made = await self.call("membership.RoleSchemeService/CreateRoleScheme", **fields)
        return str(made.role_scheme.role_scheme_id)

    async def invitation(self, address: str = "") -> tuple[str, str]:
        """An open invitation's id, and its token."""
        fields: dict[str, Any] = {"email": address or f"{word('inv')}@example.com", "role": members.ROLE_MEMBER}
        made = await self.call("membership.InvitationService/CreateInvitation", **fields)
        invitation_id = str(made.invitation.invitation_id)
        return invitation_id, invitations.token_of(self.suite.frames["membership"].secret, invitation_id)

    async def ban(self) -> str:
        """A ban of a stranger."""
        made = await self.call("membership.MemberService/BanMember", user_id=str(uuid.uuid4()))
        return str(made.ban.ban_id)

    async def group_ban(self) -> str:
        """A ban of somebody new from the group: their user id."""
        user_id, _ = await self.town.user()
        await self.join(user_id)
        await self.call("membership.GroupBanService/BanUser", group_id=self.group_id, user_id=user_id)
        return user_id

    async def guest_invite(self, channel_id: str = "") -> Any:
        """A link for guests: the whole answer."""
        fields: dict[str, Any] = {"conversation_ids": [channel_id or self.channel_id]}
        return await self.call(
            "guest.GuestInviteService/CreateGuestInvite", guest_ttl=Duration(seconds=86_400), **fields
        )

    async def guest_link(self, channel_id: str = "") -> str:
        """Such a link's token."""
        return str((await self.guest_invite(channel_id)).token)

    async def new_guest(self, channel_id: str = "") -> tuple[Person, str]:
        """A guest in a channel."""
        person = await self.town.person("Gil")
        token = await self.guest_link(channel_id)
        made = await do(self.suite, person, "guest.GuestInviteService/RedeemGuestInvite", token=token)
        return person, str(made.guest.member_id)

    def move(self, member_id: str, *, expire_in: str) -> None:
        """Sets a guest's expiry relative to the clock; the grace ends a day later."""
        query = (
            "UPDATE guests SET expire_at = statement_timestamp() + %(expire)s::interval, grace_end_at = "
            "statement_timestamp() + %(expire)s::interval + interval '1 day' WHERE member_id = %(id)s"
        )
        self.suite.rows("guest", query, {"expire": expire_in, "id": member_id})
