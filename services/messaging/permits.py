"""Who may send: identity, membership and guest are asked about a whole batch of messages, each of them once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from guildhall.guest.v1 import guest_access_service_pb2 as guests_pb
from guildhall.membership.v1 import access_service_pb2 as access_pb

from services.chassis.coalesce import is_cancelled
from services.chassis.errors import Fault, NotFound, PeerUnavailable, SessionEnded
from services.messaging.access import SEND, has_ended, is_guest, lock_of, time_of
from services.messaging.group_lookups import GroupLookups
from services.messaging.peers import GuestChannels, Guests, Membership, history_start
from services.messaging.sends import Send

GUEST = object()
"""Stands for a message that may be written if guest says so, who has not been asked."""
Permit = object
"""None for a message that may be written; why it may not; or GUEST."""


class Permits:
    """Asks afresh each time. No answer is a refusal."""

    def __init__(
        self,
        *,
        check_sessions: Callable[[Sequence[str], float], Awaitable[Sequence[bool]]],
        membership: Membership,
        guests: Guests,
        groups: GroupLookups,
    ) -> None:
        self._check_sessions = check_sessions
        self._membership = membership
        self._guests = guests
        self._groups = groups

    async def ask(self, batch: Sequence[Send], timeout_seconds: float, *, of_guests: bool) -> list[Permit]:
        """Fills in what is said of each sender. `of_guests` asks guest as well; its errors are the guests' alone."""
        answer_by = time.monotonic() + timeout_seconds
        session_ids = list({send.session_id for send in batch})
        groups = await self._groups.find({send.conversation_id for send in batch})
        # About the workspace once for each person, and once for each group in whose conversations they send.
        people = list({(send.workspace_id, send.user_id, groups.get(send.conversation_id, "")) for send in batch})
        questions = [
            access_pb.AccessQuestion(workspace_id=workspace_id, user_id=user_id, group_id=group_id, capability=SEND)
            for workspace_id, user_id, group_id in people
        ]
        alive, verdicts = await asyncio.gather(
            self._check_sessions(session_ids, timeout_seconds), self._membership.decide(questions, timeout_seconds)
        )
        sessions = dict(zip(session_ids, alive, strict=True))
        access = dict(zip(people, verdicts, strict=True))
        decided = [access[send.workspace_id, send.user_id, groups.get(send.conversation_id, "")] for send in batch]
        permits: list[Permit] = [
            _fault(send, alive=sessions[send.session_id], verdict=verdict, group_id=groups.get(send.conversation_id))
            for send, verdict in zip(batch, decided, strict=True)
        ]
        guests = [number for number, permit in enumerate(permits) if permit is None and is_guest(decided[number])]
        if guests:
            asked = [batch[number] for number in guests]
            answers = await self._permit_guests(asked, answer_by) if of_guests else [GUEST] * len(asked)
            for number, answer in zip(guests, answers, strict=True):
                permits[number] = answer
        return permits

    async def _permit_guests(self, batch: Sequence[Send], answer_by: float) -> Sequence[Permit]:
        try:
            return await self._decide_on_guests(batch, answer_by)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            # Not this batch, but what was waited for.
            return [PeerUnavailable()] * len(batch)
        except Exception as error:
            return [error] * len(batch)

    async def _decide_on_guests(self, batch: Sequence[Send], answer_by: float) -> Sequence[Permit]:
        questions = [
            guests_pb.GuestQuestion(
                workspace_id=send.workspace_id, member_id=send.member_id, conversation_id=send.conversation_id
            )
            for send in batch
        ]
        verdicts = await self._guests.decide(questions, answer_by - time.monotonic())
        asked = {
            (send.workspace_id, send.member_id)
            for send, verdict in zip(batch, verdicts, strict=True)
            if not verdict.granted and not has_ended(verdict)
        }
        # A direct conversation hangs on all of a guest's channels.
        timeout_seconds = answer_by - time.monotonic()
        answers = await asyncio.gather(
            *(
                self._guests.channels(workspace_id=workspace_id, member_id=member_id, timeout_seconds=timeout_seconds)
                for workspace_id, member_id in asked
            ),
            return_exceptions=True,
        )
        channels = dict(zip(asked, answers, strict=True))
        return [
            _guest_fault(send, verdict, channels.get((send.workspace_id, send.member_id)))
            for send, verdict in zip(batch, verdicts, strict=True)
        ]


def _fault(send: Send, *, alive: bool, verdict: access_pb.AccessVerdict, group_id: str | None) -> Fault | None:
    """`group_id` is empty for a conversation of none, and None where nobody knew of the conversation."""
    if not alive:
        return SessionEnded()
    if not verdict.member_id or verdict.reason == access_pb.ACCESS_REASON_NOT_A_MEMBER:
        return NotFound()
    send.member_id, send.allowed = verdict.member_id, verdict.allowed
    send.granted = send.until = send.since = send.locked = None
    is_seen = group_id is not None and (not group_id or verdict.in_group)
    return None if is_seen else NotFound()


def _guest_fault(
    send: Send, verdict: guests_pb.GuestVerdict, channels: GuestChannels | BaseException | None
) -> BaseException | None:
    """`channels` are all of the guest's, where the conversation is not one of them."""
    if has_ended(verdict):
        return NotFound()
    until = time_of(verdict)
    if verdict.granted:
        send.granted, send.since = (send.conversation_id,), history_start(verdict)
    elif isinstance(channels, BaseException):
        return channels if isinstance(channels, Exception) else PeerUnavailable()
    elif channels is not None and not channels.ended:
        send.granted, until = tuple(channels.grants), min(until, channels.until or until)
    else:
        return NotFound()
    send.until, send.locked = until.isoformat(), lock_of(verdict)
    if send.locked is not None:
        # Refused by the statement, after it is known whether they see the conversation.
        send.allowed, send.until = False, None
    return None
