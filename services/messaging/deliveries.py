"""Handing what was read to the streams that may have it. Nothing here waits, so nothing comes between the two."""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.messaging import events
from services.messaging.events import Asked, Reading, Sights
from services.messaging.streams import FRAME_BYTES, Frame, Stream


@dataclass(frozen=True, slots=True)
class Portion:
    """What one stream gets of a reading: a reset first, where its position cannot be gone on from."""

    reading: Reading
    start: int
    reset_to: int | None

    @property
    def key(self) -> tuple[int, int, int | None]:
        """Equal for streams that get the same."""
        return id(self.reading), self.start, self.reset_to


@dataclass(frozen=True, slots=True)
class Change:
    """What a stream gained and lost sight of."""

    stream: Stream
    gained: Sequence[events.Seen]
    lost: Sequence[str]
    private: frozenset[str] | None
    """The private conversations it was found to take part in."""


def asked(watching: Mapping[str, Collection[Stream]]) -> list[Asked]:
    """What to read so that every stream gets on from its own place."""
    return [
        Asked(
            key,
            min(stream.places[key].position for stream in streams),
            max(stream.places[key].position for stream in streams),
            min(stream.places[key].revision for stream in streams),
        )
        for key, streams in watching.items()
    ]


def granted(streams: Iterable[Stream]) -> set[str]:
    """All channels that are granted to guests among them."""
    return {key for stream in streams if stream.channels for key in stream.channels.grants}


def hand_over(
    readings: Iterable[Reading],
    watching: Mapping[str, Collection[Stream]],
    *,
    held: Collection[Stream],
    redacted: Mapping[tuple[Stream, str], Reading],
) -> list[tuple[Stream, str]]:
    """Gives each stream what it does not have yet; returns who turned out not to see which conversation any more.

    `redacted` is what guests' streams get of the readings: a guest whom it says nothing of, because they did not see
    the conversation when it was made, gets nothing this time.
    """
    portions: dict[Stream, list[Portion]] = {}
    lost = []
    for reading in readings:
        for stream in watching[reading.conversation_id]:
            place = stream.places.get(reading.conversation_id)
            if place is None or stream.ended or stream in held:
                continue
            if not stream.sees(reading):
                lost.append((stream, reading.conversation_id))
                continue
            own = reading if stream.channels is None else redacted.get((stream, reading.conversation_id))
            if own is None:
                continue
            place.revision = max(place.revision, reading.revision)
            portion = _portion(own, place.position)
            if portion is not None:
                place.position = reading.events[-1].event_seq if reading.events else reading.head
                portions.setdefault(stream, []).append(portion)
    made: dict[tuple[tuple[int, int, int | None], ...], list[Frame]] = {}
    for stream, parts in portions.items():
        key = tuple(portion.key for portion in parts)
        if key not in made:
            made[key] = _frames(parts)
        for each in made[key]:
            stream.give(each)
    return lost


def changes(streams: Iterable[Stream], sights: Sights, *, settled: Collection[str]) -> list[Change]:
    """What streams gained and lost. `settled` are workspaces whose public channels are the same as before."""
    found = []
    for stream in streams:
        private_ids: frozenset[str] | None = None
        if stream.channels is not None:
            seen = sights.granted.get(stream.workspace_id, {}) | sights.private.get(stream.member_id, {})
            ids: Collection[str] = {key for key, item in seen.items() if stream.is_shown(item)}
            gained = [seen[key] for key in ids if key not in stream.places]
        else:
            private = sights.private.get(stream.member_id, {})
            private_ids = frozenset(private)
            if stream.looked_at == private_ids and stream.workspace_id in settled:
                continue
            seen = sights.public.get(stream.workspace_id, {}) | private
            ids = seen
            gained = [item for key, item in seen.items() if key not in stream.places]
        lost = [key for key in stream.places if key not in ids]
        if gained or lost:
            # Not remembered before it has been told: nobody may have answered for this stream.
            stream.looked_at = None
            found.append(Change(stream, gained, lost, private_ids))
        else:
            stream.looked_at = private_ids
    return found


def _portion(reading: Reading, position: int) -> Portion | None:
    if reading.restored and position > reading.head:
        return Portion(reading, len(reading.events), reading.head)
    if not reading.events and position < reading.head:
        # All that there was has been purged, or is too old to be seen.
        return Portion(reading, 0, reading.head)
    start = bisect_right(reading.events, position, key=lambda event: event.event_seq)
    if start == len(reading.events):
        return None
    first = reading.events[start].event_seq
    # A hole below the head has been purged: it will not be filled.
    return Portion(reading, start, first - 1 if first > position + 1 else None)


def _frames(portions: Iterable[Portion]) -> list[Frame]:
    """The portions in as few frames as their size allows."""
    made: list[Frame] = []
    waiting: list[bytes] = []
    positions: dict[str, int] = {}
    size, oldest = 0, None
    for portion in portions:
        key = portion.reading.conversation_id
        if portion.reset_to is not None:
            waiting.append(events.reset(key, portion.reset_to))
            positions[key] = portion.reset_to
        expected = 0
        for event in portion.reading.events[portion.start :]:
            if expected and event.event_seq > expected:
                waiting.append(events.reset(key, event.event_seq - 1))
                positions[key] = event.event_seq - 1
            expected = event.event_seq + 1
            if waiting and size + len(event.entry) > FRAME_BYTES:
                made.append(Frame(b"".join(waiting), positions, oldest))
                waiting, positions, size, oldest = [], {}, 0, None
            waiting.append(event.entry)
            if event.at and event.event.HasField("message_created"):
                oldest = min(oldest or event.at, event.at)
            positions[key] = event.event_seq
            size += len(event.entry)
    made.append(Frame(b"".join(waiting), positions, oldest))
    return made
