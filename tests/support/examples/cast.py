"""Who comes to the doors: for each column of the access matrix somebody of that kind, made anew when they are spent."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace

from tests.support.accounts import service_account, signed_again
from tests.support.examples.world import LASTING, House, Town, all_scopes
from tests.support.reflected import Metadata, do
from tests.support.suite import Person


@dataclass(frozen=True)
class Caller:
    """Somebody, and what of the workspace is their own from when they could still have it."""

    column: str
    person: Person | None = None
    member_id: str = ""
    message_id: str = ""
    file_id: str = ""
    """Announced; nothing of it is uploaded."""
    token: str | None = None
    """What they send instead of the person's."""

    @property
    def metadata(self) -> Metadata:
        """What they send with each call."""
        token = self.token if self.token is not None else self.person.access_token if self.person else ""
        return (("authorization", f"Bearer {token}"),) if token else ()


class Cast:
    """Makes callers; `house` is the workspace that the matrix is about, `elsewhere` another one."""

    def __init__(self, house: House, elsewhere: House) -> None:
        self.house = house
        self.elsewhere = elsewhere
        self.town: Town = house.town
        self.present: dict[str, Caller] = {}

    async def prepare(self) -> "Cast":
        """Somebody for each column."""
        for column in COLUMNS:
            await self.renew(column)
        return self

    async def renew(self, column: str) -> Caller:
        """Somebody new for a column."""
        caller = replace(await COLUMNS[column](self), column=column)
        self.present[column] = caller
        return caller

    async def _with_a_role(self, role: str, *, group_role: str = "") -> Caller:
        person, member_id = await self.house.member("Sub", role)
        if group_role:
            named = {"group_id": self.house.group_id, "member_id": member_id, "role": group_role}
            await self.house.call("membership.GroupMemberService/AddGroupMember", **named)
        return await self._with_things(Caller("", person, member_id), writes=role != "viewer")

    async def _with_things(self, caller: Caller, *, writes: bool = True) -> Caller:
        if not writes:
            return caller
        message_id = await self.house.message(by=caller.person)
        return replace(caller, message_id=message_id, file_id=await self.house.upload(by=caller.person))

    async def anonymous(self) -> Caller:
        """Without a token."""
        return Caller("")

    async def malformed(self) -> Caller:
        """With something that is no token."""
        return Caller("", token="rubbish")

    async def expired(self) -> Caller:
        """An admin whose token's time is over."""
        admin = await self._with_a_role("admin")
        assert admin.person is not None
        past = signed_again(self.town.suite, admin.person.access_token, seconds=-600)
        return replace(admin, token=past)

    async def revoked(self) -> Caller:
        """An admin whose session was ended."""
        admin = await self._with_a_role("admin")
        assert admin.person is not None
        await do(self.town.suite, admin.person, "identity.AuthService/SignOut")
        return admin

    async def viewer(self) -> Caller:
        """A viewer."""
        return await self._with_a_role("viewer")

    async def member(self) -> Caller:
        """A member, of no group."""
        return await self._with_a_role("member")

    async def moderator(self) -> Caller:
        """A member who moderates the group."""
        return await self._with_a_role("member", group_role="moderator")

    async def owner(self) -> Caller:
        """A member who owns the group."""
        return await self._with_a_role("member", group_role="owner")

    async def admin(self) -> Caller:
        """An admin of the workspace, of no group."""
        return await self._with_a_role("admin")

    async def guest(self) -> Caller:
        """A guest in the channel."""
        return await self._with_things(Caller("", *await self.house.new_guest()))

    async def far_guest(self) -> Caller:
        """A guest in another channel."""
        return Caller("", *await self.house.new_guest(self.house.second_channel_id))

    async def locked(self) -> Caller:
        """A guest in the channel whose time is over, in their grace."""
        caller = await self.guest()
        self.house.move(caller.member_id, expire_in="-1 hour")
        return caller

    async def ended(self) -> Caller:
        """A guest in the channel whose grace is over."""
        caller = await self.guest()
        self.house.move(caller.member_id, expire_in="-2 days")
        return caller

    async def banned(self) -> Caller:
        """Somebody who was an admin, and is banned."""
        caller = await self._with_a_role("admin")
        await self.house.call("membership.MemberService/BanMember", member_id=caller.member_id)
        return caller

    async def stranger(self) -> Caller:
        """An admin of another workspace."""
        return Caller("", (await self.elsewhere.member("Sub", "admin"))[0])

    async def root(self) -> Caller:
        """An administrator of the system, in no workspace."""
        return Caller("", await self.town.administrator())

    async def account(self) -> Caller:
        """A service account that has every scope."""
        return self._service_account(*all_scopes())

    async def unscoped(self) -> Caller:
        """A service account without the scope."""
        return self._service_account("guildhall.nothing")

    async def bound(self) -> Caller:
        """A service account that has every scope, bound to another workspace."""
        return self._service_account(*all_scopes(), workspace_ids=[self.elsewhere.id])

    def _service_account(self, *scopes: str, workspace_ids: Collection[str] = ()) -> Caller:
        made = service_account(self.town.suite, *scopes, workspace_ids=workspace_ids, seconds=LASTING)
        return Caller("", token=made.access_token)


COLUMNS: Mapping[str, Callable[[Cast], Awaitable[Caller]]] = {
    make.__name__: make
    for make in (
        Cast.anonymous,
        Cast.malformed,
        Cast.expired,
        Cast.revoked,
        Cast.viewer,
        Cast.member,
        Cast.moderator,
        Cast.owner,
        Cast.admin,
        Cast.guest,
        Cast.far_guest,
        Cast.locked,
        Cast.ended,
        Cast.banned,
        Cast.stranger,
        Cast.root,
        Cast.account,
        Cast.unscoped,
        Cast.bound,
    )
}
"""Those who come by the gateway."""
