"""Who may do what with links and guests: asked of membership for each call, and of the guest's own row."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import NotFound, PermissionDenied
from services.guest import guests, policies
from services.guest.peers import Membership

Rows = TypeVar("Rows", bound=Sequence[Row[Any]])


@dataclass(frozen=True, slots=True)
class Standing:
    """Somebody in one workspace, as membership and the policy have just described them."""

    member_id: str
    is_guest: bool
    manages: bool
    may_invite: bool

    def may_change(self, sponsor_member_id: str) -> bool:
        """Whether they may change a sponsor's guests: who manages guests, and the sponsor while they may invite."""
        return self.manages or (self.may_invite and sponsor_member_id == self.member_id)


class Access:
    """The questions behind the RPCs of guest. No answer is a refusal."""

    def __init__(self, database: Database, membership: Membership) -> None:
        self._database = database
        self._membership = membership

    async def find_standing(self, workspace_id: str, *, member_id: str = "") -> Standing | None:
        """The caller, or a member who might call; None for who is no active member, or could not sign in."""
        subject = {"member_id": member_id} if member_id else {"user_id": current_call().user_id}
        rights = await self._membership.rights(workspace_id, **subject)
        if rights is None:
            return None
        # Of callers their sessions say it. Others would go on vouching for their guests, though nobody lets them in.
        if member_id and await self._membership.is_disabled(workspace_id=workspace_id, member_id=member_id):
            return None
        may_invite = rights.invites
        if rights.creates and not may_invite:
            may_invite = await self._database.read(lambda tx: policies.members_may_invite(tx, workspace_id))
        return Standing(rights.member_id, rights.is_guest, rights.manages, may_invite)

    async def require_standing(self, workspace_id: str) -> Standing:
        """The caller, if they see the workspace. NOT_FOUND for strangers and guests who have ended."""
        standing = await self.find_standing(workspace_id)
        if standing is None:
            raise NotFound
        if standing.is_guest:
            member_id = standing.member_id
            found = await self._database.read(
                lambda tx: guests.find_seeing(tx, workspace_id=workspace_id, member_id=member_id)
            )
            if found is None:
                raise NotFound
        return standing

    async def require_inviter(self, workspace_id: str) -> Standing:
        """The caller, who may invite guests. NOT_FOUND, PERMISSION_DENIED."""
        standing = await self.require_standing(workspace_id)
        if not standing.may_invite:
            raise PermissionDenied
        return standing

    async def read_as_inviter(self, workspace_id: str, read: Callable[[Standing], Awaitable[Rows]]) -> Rows:
        """What `read` gives to the caller, of whom the same is still true afterwards: nothing is newer than that.

        NOT_FOUND; PERMISSION_DENIED for who neither manages nor invites guests.
        """
        standing = await self.require_standing(workspace_id)
        while True:
            if not (standing.manages or standing.may_invite):
                raise PermissionDenied
            rows = await read(standing)
            present = await self.require_standing(workspace_id)
            if present == standing:
                return rows
            standing = present


async def access_guest(
    tx: AsyncConnection, standing: Standing, *, workspace_id: str, member_id: str, by_managers_only: bool = False
) -> Row[Any]:
    """Locks a guest for a change, the policy being held; the row is as it was by then.

    NOT_FOUND for those who do not see the guest; PERMISSION_DENIED for the guest, and for the sponsor where only those
    who manage guests may.
    """
    guest = {"workspace_id": workspace_id, "member_id": member_id}
    await policies.hold(tx, workspace_id)
    locked = await guests.lock(tx, **guest)
    if locked is None:
        raise NotFound
    if standing.manages or (not by_managers_only and standing.may_change(locked.sponsor_member_id)):
        return await guests.get(tx, **guest)
    if standing.may_change(locked.sponsor_member_id) or standing.member_id == str(member_id).lower():
        raise PermissionDenied
    raise NotFound
