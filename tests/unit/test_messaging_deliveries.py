"""Handing over what was read: a guest gets what was made for them, or nothing."""

import time
import uuid
from datetime import UTC, datetime
from typing import Any

from guildhall.messaging.v1 import event_service_pb2 as pb

from services.messaging import deliveries
from services.messaging.access import Viewer
from services.messaging.events import Reading, Written
from services.messaging.guest_deliveries import for_guests
from services.messaging.guest_sight import Sights
from services.messaging.peers import GuestChannels
from services.messaging.streams import Place, Stream

CONVERSATION = str(uuid.uuid4())
HISTORY = datetime(2026, 6, 1, tzinfo=UTC)
BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
NOTHING: Any = None
SIGHTS = Sights(NOTHING, access=NOTHING, guests=NOTHING)
"""Asks nobody while no event names anybody besides its sender."""


def granted(*conversation_ids: str) -> GuestChannels:
    grants = dict.fromkeys(conversation_ids, HISTORY)
    return GuestChannels(grants=grants, ended=False, holds_until=time.monotonic() + 60)


def guests_stream() -> Stream:
    viewer = Viewer(str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4()), {CONVERSATION: HISTORY})
    stream = Stream(
        viewer=viewer, session_id="", access_revision=1, channels=granted(CONVERSATION), asked_at=time.monotonic()
    )
    stream.places[CONVERSATION] = Place(0, 1)
    return stream


def told(stream: Stream) -> list[str]:
    """The kinds of events that wait for the stream's client."""
    response = stream.next()
    if not isinstance(response, bytes):
        return []
    events = pb.SubscribeResponse.FromString(response).events.events
    return [event.WhichOneof("payload") or "" for event in events]


async def test_a_channel_revoked_and_granted_again_while_it_was_decided_shows_nothing_that_was_not_redacted() -> None:
    stream = guests_stream()
    event = pb.Event(conversation_id=CONVERSATION, event_seq=1)
    event.message_created.text = "from before their history"
    reading = Reading(CONVERSATION, True, 1, 1, False, None, events=[Written.of(event, at=BEFORE)])
    watching = {CONVERSATION: [stream]}

    stream.channels = granted()
    redacted, unanswered = await for_guests(SIGHTS, [reading], watching, held=())
    stream.channels = granted(CONVERSATION)
    assert deliveries.hand_over([reading], watching, held=unanswered, redacted=redacted) == []
    assert told(stream) == []

    # Nothing is lost by it: the next time it is told as far as they may be told.
    redacted, unanswered = await for_guests(SIGHTS, [reading], watching, held=())
    assert deliveries.hand_over([reading], watching, held=unanswered, redacted=redacted) == []
    assert told(stream) == ["hidden"]
