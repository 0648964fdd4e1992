"""Whether streams may still be written to: asked for all of them at once, and again before anything is delivered."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence, Set
from typing import Protocol

import structlog
from guildhall.membership.v1 import access_service_pb2 as access_pb
from guildhall.messaging.v1 import event_service_pb2 as pb

from services.chassis.coalesce import FLUSH_SECONDS
from services.messaging.access import READ, is_guest
from services.messaging.peers import GuestChannels, Guests, Membership
from services.messaging.streams import Stream

log = structlog.get_logger()

SESSION_SECONDS = 3.0
"""Without identity's answer for this long, nothing is delivered."""


class SignedIn(Protocol):
    """What lives no longer than a session."""

    session_id: str
    session_seen_at: float
    """When identity was last asked, and called the session alive."""

    def end(self, reason: pb.StreamEndReason.ValueType) -> None:
        """Ends it for a reason."""


class Guard:
    """Ends the streams of those who lost their session or their access, and tells for whom nobody answered.

    What is handed to a stream after `verify` was read before it, so whoever lost access before that reading was
    acknowledged as lost is found here. An answer is remembered only together with the access revision it holds for:
    the revision is asked for each time, and whatever takes sight away raises it.
    """

    def __init__(
        self,
        *,
        check_sessions: Callable[[Sequence[str], float], Awaitable[Sequence[bool]]],
        membership: Membership,
        guests: Guests,
    ) -> None:
        self._check_sessions = check_sessions
        self._membership = membership
        self._guests = guests

    async def end_signed_out(self, streams: Collection[SignedIn]) -> None:
        """Asks for all the sessions in one batch."""
        asked_at = time.monotonic()
        asked = list(streams)
        if not asked:
            return
        alive = await self._check_sessions([stream.session_id for stream in asked], FLUSH_SECONDS)
        for stream, is_alive in zip(asked, alive, strict=True):
            if is_alive:
                stream.session_seen_at = asked_at
            else:
                stream.end(pb.STREAM_END_REASON_SESSION_ENDED)

    async def verify(self, streams: Collection[Stream]) -> set[Stream]:
        """Ends those who no longer have access; returns those about whom no answer came, who get nothing for now."""
        current = await self._access_revisions({stream.workspace_id for stream in streams})
        clock = time.monotonic()
        held = {
            stream
            for stream in streams
            if stream.workspace_id not in current or clock - stream.session_seen_at > SESSION_SECONDS
        }
        doubtful = [
            stream
            for stream in streams
            if not stream.ended and stream not in held and _is_doubtful(stream, current[stream.workspace_id], clock)
        ]
        answers = await asyncio.gather(*(self._ask_again(stream) for stream in doubtful), return_exceptions=True)
        for stream, error in zip(doubtful, answers, strict=True):
            if error is not None:
                _report("access", error)
            if error is not None or stream.access_revision < current[stream.workspace_id]:
                held.add(stream)
        return held

    async def _access_revisions(self, workspace_ids: Collection[str]) -> dict[str, int]:
        """The revisions, without those that nobody told."""
        deadline = time.monotonic() + FLUSH_SECONDS
        asked = list(workspace_ids)
        answers = await asyncio.gather(
            *(self._membership.access_revision(workspace_id, deadline=deadline) for workspace_id in asked),
            return_exceptions=True,
        )
        revisions: dict[str, int] = {}
        for workspace_id, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                _report("access_revision", answer)
            else:
                revisions[workspace_id] = answer
        return revisions

    async def _ask_again(self, stream: Stream) -> None:
        """membership first, then guest. The answers are taken over together, and never older ones over newer."""
        asked = stream.group_ids
        verdict = await self._membership.check_access(
            workspace_id=stream.workspace_id,
            user_id=stream.user_id,
            capability=READ,
            deadline=time.monotonic() + FLUSH_SECONDS,
        )
        if not verdict.allowed or verdict.member_id != stream.member_id:
            # Another member id is another stay, which starts with nothing of this one.
            stream.end(pb.STREAM_END_REASON_ACCESS_ENDED)
            return
        if is_guest(verdict) != (stream.channels is not None):
            # What they see is another thing now: a new Subscribe finds out what.
            stream.end(pb.STREAM_END_REASON_DRAINED)
            return
        channels = await self._guest_channels(stream)
        if channels is not None and channels.ended:
            stream.end(pb.STREAM_END_REASON_ACCESS_ENDED)
            return
        in_groups = await asyncio.gather(*(self._in_group(stream, group_id) for group_id in asked))
        revision = min(each.access_revision for each in (verdict, *in_groups))
        if revision >= stream.access_revision and asked >= stream.group_ids:
            answers = zip(asked, in_groups, strict=True)
            groups = {key for key, each in answers if each.in_group and each.member_id == stream.member_id}
            _take_over(stream, revision, channels, asked=asked, groups=groups)

    async def _in_group(self, stream: Stream, group_id: str) -> access_pb.AccessVerdict:
        return await self._membership.check_in_group(
            workspace_id=stream.workspace_id,
            user_id=stream.user_id,
            group_id=group_id,
            capability=READ,
            deadline=time.monotonic() + FLUSH_SECONDS,
        )

    async def _guest_channels(self, stream: Stream) -> GuestChannels | None:
        if stream.channels is None:
            return None
        return await self._guests.channels(workspace_id=stream.workspace_id, member_id=stream.member_id)


def _is_doubtful(stream: Stream, access_revision: int, clock: float) -> bool:
    """Whether what is known of a stream may no longer hold. A guest's deadline makes it so; it does not end it."""
    if stream.access_revision < access_revision or stream.groups_wanted:
        return True
    return stream.channels is not None and (stream.distrusted or clock >= stream.channels.holds_until)


def _take_over(
    stream: Stream, revision: int, channels: GuestChannels | None, *, asked: Set[str], groups: Set[str]
) -> None:
    # While the revision stays, nobody has lost a group, so who was in one before still is.
    stream.groups = frozenset(groups) if revision > stream.access_revision else stream.groups | groups
    stream.groups_wanted -= asked
    stream.access_revision = revision
    stream.channels = channels
    stream.distrusted = False


def _report(question: str, error: BaseException) -> None:
    """Whatever went wrong, there is no answer, so nothing is delivered."""
    log.warning("streams_unanswered", question=question, error=type(error).__name__)
