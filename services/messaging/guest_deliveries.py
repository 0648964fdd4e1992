"""What guests' streams get of what was read: asked for each guest of those whom their part of it names."""

import asyncio
from collections.abc import Collection, Mapping, Sequence

import structlog

from services.messaging.events import Reading, Written
from services.messaging.guest_sight import Sights, names, redacted
from services.messaging.streams import Stream

log = structlog.get_logger()


async def for_guests(
    sights: Sights, readings: Sequence[Reading], watching: Mapping[str, Collection[Stream]], *, held: Collection[Stream]
) -> tuple[dict[tuple[Stream, str], Reading], set[Stream]]:
    """The readings as guests get them, by stream and conversation; and the streams about which no answer came."""
    concerned = [
        (stream, reading)
        for reading in readings
        for stream in watching[reading.conversation_id]
        if stream.channels is not None and stream not in held and not stream.ended and stream.sees(reading)
    ]
    if not concerned:
        return {}, set()
    named: dict[tuple[str, str], set[str]] = {}
    for stream, reading in concerned:
        named.setdefault((stream.workspace_id, stream.member_id), set()).update(names(_new(stream, reading)))
    seen = await find_visible(sights, named)
    answered = [pair for pair in concerned if (pair[0].workspace_id, pair[0].member_id) in seen]
    made = {
        (stream, reading.conversation_id): redacted(reading, stream.viewer, seen[stream.workspace_id, stream.member_id])
        for stream, reading in answered
    }
    return made, {stream for stream, _ in concerned} - {stream for stream, _ in answered}


async def find_visible(
    sights: Sights, named: Mapping[tuple[str, str], Collection[str]]
) -> dict[tuple[str, str], frozenset[str]]:
    """For each guest (workspace, member) whom they see of some members; without guests about whom no answer came."""
    answers = await asyncio.gather(
        *(
            sights.visible(workspace_id=workspace_id, member_id=member_id, member_ids=member_ids)
            for (workspace_id, member_id), member_ids in named.items()
        ),
        return_exceptions=True,
    )
    found: dict[tuple[str, str], frozenset[str]] = {}
    for guest, answer in zip(named, answers, strict=True):
        if isinstance(answer, BaseException):
            log.warning("streams_unanswered", question="visible", error=type(answer).__name__)
        else:
            found[guest] = answer
    return found


def _new(stream: Stream, reading: Reading) -> list[Written]:
    position = stream.places[reading.conversation_id].position
    return [event for event in reading.events if event.event_seq > position]
