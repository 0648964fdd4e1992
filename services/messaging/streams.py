"""One subscriber's stream: what they see and up to where, what waits to be written, and how it ends."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from guildhall.messaging.v1 import event_service_pb2 as pb

from services.messaging import events, metrics
from services.messaging.access import Viewer, shares
from services.messaging.events import Reading, Seen, Snapshot
from services.messaging.peers import GuestChannels

FRAME_BYTES = 512 << 10
MOST_BYTES = 4 << 20
MOST_FRAMES = 1000
"""What may wait for a slow reader, who is then cut."""
MOST_POSITIONS = 1000
"""What a SubscribeRequest may name, by its contract: who names as many may know more."""
GAINED_AT_ONCE = 1000
"""In one frame, of which there must not be one for each."""

LOST = -1


@dataclass(slots=True)
class Place:
    """Where a stream stands in one conversation."""

    position: int
    """The last event handed to it."""
    revision: int
    """The conversation's own revision at which it was last found to be seen."""
    group_id: str | None = None
    """The group whose conversation it is."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Events that wait to be written; equal ones are shared by streams."""

    entries: bytes
    """As in an EventBatch."""
    positions: Mapping[str, int]
    """Where the client stands once it has been written; LOST for a conversation that it no longer sees."""
    oldest_at: datetime | None = None
    """When the oldest message was sent that is new in it."""


class Stream:
    """The state of one stream. Its hub hands it frames, its handler writes them."""

    def __init__(
        self, *, viewer: Viewer, session_id: str, access_revision: int, channels: GuestChannels | None, asked_at: float
    ) -> None:
        self.workspace_id = viewer.workspace_id
        self.user_id = viewer.user_id
        self.member_id = viewer.member_id
        self.session_id = session_id
        self.session_seen_at = asked_at
        """When identity was last asked, and called the session alive."""
        self.access_revision = access_revision
        self.channels = channels
        """What guest said; None for a full member."""
        self.groups: frozenset[str] = frozenset()
        """The groups that membership, at this access revision, said they are in; what is of another is not seen."""
        self.groups_wanted: set[str] = set()
        """Groups to be asked about, for conversations that they would gain."""
        self.distrusted = False
        """True if guest is to be asked again whatever the revision says."""
        self.places: dict[str, Place] = {}
        self.joined = False
        """True while the hub delivers to it together with the others; False while it catches up by itself."""
        self.moved: dict[tuple[str, str], datetime] = {}
        """The read states it was told of, by conversation and member: as of when."""
        self.looked_at: frozenset[str] | None = None
        """The private conversations that were last found; None if nobody looked since it joined."""
        self._opened_at: datetime | None = None
        self._left: dict[str, int] = {}
        """Where it stood in the conversations that it lost."""
        self._written: dict[str, int] = {}
        self._waiting: deque[Frame] = deque()
        self._waiting_bytes = 0
        self._taken_at: datetime | None = None
        self._measured_at = 0.0
        self._end: pb.SubscribeResponse | None = None
        self._wake = asyncio.Event()
        self._all_written = asyncio.Event()
        self._all_written.set()

    @property
    def ended(self) -> bool:
        """True once a reason to end it is known."""
        return self._end is not None

    @property
    def is_idle(self) -> bool:
        """True if nothing waits to be written."""
        return not self._waiting and self._end is None

    @property
    def group_ids(self) -> frozenset[str]:
        """The groups on which anything depends that is seen, or would be."""
        return frozenset(place.group_id for place in self.places.values() if place.group_id) | self.groups_wanted

    def is_in_group_of(self, seen: Seen | Place) -> bool:
        """Whether it is no group's, or of one that they are known to be in."""
        return seen.group_id is None or seen.group_id in self.groups

    def is_shown(self, seen: Seen | Reading) -> bool:
        """Whether a guest sees it, by guest's latest word and who took part when it was read."""
        grants = self.channels.grants if self.channels else {}
        return seen.conversation_id in grants or shares(grants, self.member_id, seen.together)

    @property
    def viewer(self) -> Viewer:
        """The guest as they are known now."""
        return Viewer(self.workspace_id, self.user_id, self.member_id, self.channels.grants if self.channels else None)

    def open(self, snapshot: Snapshot, *, resume: Mapping[str, int]) -> pb.SubscribeResponse:
        """Takes its places and returns the first frame. Follow-ups (reset, lost, gained) wait behind it.

        Who resumes and had room to name all that they know (`resume`) gained what they do not name while they were
        away: from its start if it is younger than what they had, else at its head, the rest of it to be read anew.
        """
        self._opened_at = snapshot.read_at
        seen_ids = {item.conversation_id for item in snapshot.seen}
        followers = [events.lost(key) for key in resume if key not in seen_ids]
        names_all = 0 < len(resume) < MOST_POSITIONS
        gained: list[tuple[str, int]] = []
        for item in snapshot.seen:
            key, position = item.conversation_id, resume.get(item.conversation_id, item.head)
            if position > item.head:
                position = item.head
                followers.append(events.reset(key, position))
            elif names_all and key not in resume:
                position = 0 if snapshot.had_until and item.created_at > snapshot.had_until else item.head
                gained.append((key, position))
            self.places[key] = Place(position, item.revision, item.group_id)
        # What was gained is theirs to resume from once they have been told of it: who named it before would never be.
        opened = {key: place.position for key, place in self.places.items() if not names_all or key in resume}
        self._written = dict(opened)
        if followers:
            self.give(Frame(b"".join(followers), {}))
        for first in range(0, len(gained), GAINED_AT_ONCE):
            some = dict(gained[first : first + GAINED_AT_ONCE])
            self.give(Frame(b"".join(_gained_while_away(key, position) for key, position in some.items()), some))
        return pb.SubscribeResponse(opened=pb.Opened(positions=events.positions(opened)))

    def sees(self, reading: Reading) -> bool:
        """Whether it may have what was read: by guest's word, and by participation in the reading's own snapshot.

        For a group's conversation by membership's word as well.
        """
        place = self.places.get(reading.conversation_id)
        if place is None:
            return False
        if self.channels is not None:
            return self.is_shown(reading)
        if not self.is_in_group_of(place):
            return False
        if reading.public or place.revision >= reading.revision:
            return True
        return reading.member_ids is not None and self.member_id in reading.member_ids

    def gain(self, seen: Seen) -> None:
        """Takes a place in another conversation: at its start if it is younger than the stream, else at its head.

        In one that it had and lost, where it was: what happened since is theirs to know now, what they have is not new.
        """
        is_young = self._opened_at is not None and seen.created_at > self._opened_at
        position = min(self._left.pop(seen.conversation_id, 0 if is_young else seen.head), seen.head)
        self.places[seen.conversation_id] = Place(position, seen.revision, seen.group_id)
        self.give(Frame(events.gained(seen.conversation_id, position), {seen.conversation_id: position}))

    def lose(self, conversation_id: str) -> None:
        """Gives up a place."""
        # It may still be written down as theirs, and come back without any change of that.
        self.looked_at = None
        left = self.places.pop(conversation_id, None)
        if left is not None:
            self._left[conversation_id] = left.position
            self.give(Frame(events.lost(conversation_id), {conversation_id: LOST}))

    def give(self, given: Frame) -> None:
        """Has a frame written. A reader with too much waiting is cut, never waited for."""
        if self.ended:
            return
        if len(self._waiting) >= MOST_FRAMES or self._waiting_bytes + len(given.entries) > MOST_BYTES:
            self.end(pb.STREAM_END_REASON_SLOW)
            return
        if not self.joined and given.oldest_at is not None:
            # What it catches up with was not late: it was away.
            given = replace(given, oldest_at=None)
        self._waiting.append(given)
        self._waiting_bytes += len(given.entries)
        self._all_written.clear()
        self._wake.set()

    def end(self, reason: pb.StreamEndReason.ValueType) -> None:
        """Ends it with the first reason given. What waits is dropped: the client resumes from what was written."""
        if self.ended:
            return
        metrics.SUBSCRIPTION_ENDS.labels(metrics.reason_name(reason)).inc()
        self._waiting.clear()
        places = {} if reason == pb.STREAM_END_REASON_ACCESS_ENDED else self._written
        self._end = pb.SubscribeResponse(end=pb.StreamEnd(reason=reason, positions=events.positions(places)))
        self._wake.set()
        self._all_written.set()

    async def wait(self, seconds: float) -> None:
        """Waits until there is something to write, or for so long."""
        self._wake.clear()
        if not self.is_idle or seconds <= 0:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def written(self) -> None:
        """Waits until the client has taken what it was given, or it has ended."""
        await self._all_written.wait()

    def next(self) -> pb.SubscribeResponse | bytes | None:
        """What to write now, events already serialised; several frames that wait travel as one."""
        if self._end is not None:
            return self._end
        if not self._waiting:
            return None
        self._taken_at = self._waiting[0].oldest_at
        taken = [self._pop().entries]
        size = len(taken[0])
        while self._waiting and size + len(self._waiting[0].entries) <= FRAME_BYTES:
            taken.append(self._pop().entries)
            size += len(taken[-1])
        return events.response(b"".join(taken))

    def note_written(self) -> None:
        """What `next` gave has been written: measures how late, of a live stream and at most once a second."""
        if not self._waiting:
            self._all_written.set()
        if self._taken_at is None:
            return
        clock = time.time()
        if clock >= self._measured_at + 1:
            self._measured_at = clock
            metrics.DELIVERY_LAG.observe(max(0.0, clock - self._taken_at.timestamp()))
        self._taken_at = None

    def _pop(self) -> Frame:
        taken = self._waiting.popleft()
        self._waiting_bytes -= len(taken.entries)
        for key, position in taken.positions.items():
            if position == LOST:
                self._written.pop(key, None)
            else:
                self._written[key] = position
        return taken


def _gained_while_away(conversation_id: str, position: int) -> bytes:
    """What is between its start and the position will not follow."""
    told = events.gained(conversation_id, position)
    return told + events.reset(conversation_id, position) if position else told
