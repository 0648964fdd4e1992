"""What F12 must tell from messaging: a service that decides who gets a message when it is sent.

Every replica asks about the streams of the conversation when the message arrives, before it is stored; whoever had
access then gets it. Nobody asks when it is delivered, nor in between.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from services.messaging import audiences, deliveries, events, hub, outgoing
from services.messaging.sends import Send
from services.messaging.streams import Stream

_DECIDE = "decide "


class Audience(audiences.Audience):
    """Delivers to whoever is still there."""

    async def decide(self, conversation_id: str) -> None:
        """Ends the streams of those who have no access now."""
        await self._guard.verify([stream for stream in self._watching.get(conversation_id, ()) if not stream.ended])

    async def check_access(self) -> None:
        """Asks nobody."""

    async def _deliver(
        self, watching: Mapping[str, Collection[Stream]], *, in_turn: bool = False
    ) -> tuple[Sequence[str], set[Stream]]:
        if not watching:
            return [], set()
        asked = deliveries.asked(watching)
        readings, rest = await self._database.read(lambda tx: events.read(tx, asked=asked))
        # To guests as well, and nothing is left out.
        whole = {(stream, each.conversation_id): each for each in readings for stream in watching[each.conversation_id]}
        for stream, conversation_id in deliveries.hand_over(readings, watching, held=(), redacted=whole):
            self._lose(stream, conversation_id)
        return rest, set()


class Hub(hub.Hub):
    """Takes a wake-up that says so as an order to decide."""

    audience_class = Audience
    _deciding: asyncio.Task[None] | None = None

    def wake(self, conversation_id: str = "") -> None:
        """Decides, or has it read."""
        if conversation_id.startswith(_DECIDE):
            # Referenced, so that it is not collected while it asks; a newer one does as well as all before it.
            self._deciding = asyncio.create_task(self.decide(conversation_id.removeprefix(_DECIDE)))
        else:
            super().wake(conversation_id)

    async def decide(self, conversation_id: str) -> None:
        """Has every audience decide."""
        for audience in self.audiences:
            assert isinstance(audience, Audience)
            await audience.decide(conversation_id)


class Outgoing(outgoing.Outgoing):
    """Has every replica decide about a message as soon as it arrives."""

    def submit(self, send: Send) -> asyncio.Future[outgoing.Answer]:
        """Queues it afterwards."""
        self._on_stored([_DECIDE + send.conversation_id])
        return super().submit(send)
