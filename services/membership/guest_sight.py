"""What guests are shown of a workspace's people, and until when they may do anything.

One predicate, which is guest's: it is asked last, after the rows were read, so that nothing shown is newer than the
permission. Full members are not asked about.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from guildhall.guest.v1 import guest_access_service_pb2 as guests
from guildhall.guest.v1 import guest_service_pb2
from guildhall.membership.v1 import member_service_pb2 as pb
from sqlalchemy import Row

from services.chassis.errors import NotFound
from services.membership.errors import GuestLocked
from services.membership.peers import Guests

ENTITLED = frozenset({guest_service_pb2.GUEST_STATE_ACTIVE, guest_service_pb2.GUEST_STATE_LOCKED})


class Caller(Protocol):
    """A member's row, as far as it says who asks."""

    @property
    def id(self) -> Any: ...

    @property
    def workspace_id(self) -> Any: ...

    @property
    def kind(self) -> str: ...


class Sight:
    """Answers for guests; whoever is a full member passes."""

    def __init__(self, guests: Guests) -> None:
        self._guests = guests

    async def shown(self, caller: Caller, people: Sequence[pb.Member]) -> list[pb.Member]:
        """Those whom the caller sees, each as the caller sees them: of others, nothing is told that leads elsewhere."""
        if caller.kind == "full":
            return list(people)
        named = {person.member_id for person in people} | {person.inviter_member_id for person in people} - {""}
        if not named:
            return []
        seen = await self._guests.visible(str(caller.workspace_id), str(caller.id), among=named)
        return [_reduced(person, seen) for person in people if person.member_id in seen]

    async def one(self, caller: Caller, person: pb.Member) -> pb.Member:
        """The same of one. Errors: NotFound for whom the caller does not see, which for who has ended is anybody."""
        for shown in await self.shown(caller, [person]):
            return shown
        raise NotFound

    async def page(self, caller: Caller, *, after: str, size: int) -> list[str]:
        """The next `size` member ids that a guest sees. Errors: NotFound for one who has ended."""
        found = await self._guests.visible_page(str(caller.workspace_id), str(caller.id), after=after, size=size)
        if not found:
            # A guest who has not ended sees at least themselves, which is only not to be seen after their own id.
            await self.require_present(caller)
        return found

    async def present(self, callers: Sequence[Caller]) -> list[bool]:
        """For each stay, whether it gives sight at this instant; up to 1 000."""
        asked = [(str(stay.workspace_id), str(stay.id)) for stay in callers if stay.kind != "full"]
        verdicts = iter(await self._guests.check(asked))
        return [stay.kind == "full" or next(verdicts).state in ENTITLED for stay in callers]

    async def find_over(self, stay: Row[Any] | None) -> Row[Any] | None:
        """The stay, if it is that of a guest who has ended, by guest's word: not if it does not know them.

        Who was promoted is not over, but a full member whom membership has not heard of yet.
        """
        if stay is None or stay.kind == "full":
            return None
        (verdict,) = await self._guests.check([(str(stay.workspace_id), str(stay.id))])
        is_over = (
            verdict.state == guest_service_pb2.GUEST_STATE_ENDED
            and verdict.HasField("grace_end_time")
            and verdict.end_reason != guest_service_pb2.GUEST_END_REASON_PROMOTED
        )
        return stay if is_over else None

    async def require_present(self, caller: Caller) -> None:
        """NotFound for a guest who has ended: they are nobody."""
        if not all(await self.present([caller])):
            raise NotFound

    async def require_writer(self, caller: Caller) -> None:
        """NotFound for a guest who has ended, GuestLocked for one whose time is over."""
        if caller.kind == "full":
            return
        (verdict,) = await self._guests.check([(str(caller.workspace_id), str(caller.id))])
        if verdict.state not in ENTITLED:
            raise NotFound
        if verdict.state == guest_service_pb2.GUEST_STATE_LOCKED:
            raise GuestLocked(metadata=_times(verdict))


def _times(verdict: guests.GuestVerdict) -> dict[str, str]:
    return {
        "lock_time": verdict.expire_time.ToJsonString(),
        "grace_end_time": verdict.grace_end_time.ToJsonString(),
    }


def _reduced(person: pb.Member, seen: frozenset[str]) -> pb.Member:
    """Without the one who asked them in, unless the guest sees that one too, and without what they came by."""
    reduced = pb.Member()
    reduced.CopyFrom(person)
    if person.inviter_member_id not in seen:
        reduced.ClearField("inviter_member_id")
    reduced.ClearField("invitation_id")
    reduced.ClearField("group_invite_id")
    return reduced
