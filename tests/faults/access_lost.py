"""F12: access is lost, in every way in which members and guests lose it, while secrets are posted and read.

Secrets are new messages, edits and reactions; they are read on streams and by every RPC that shows one.

In every third batch the conversation's row is locked while the loss is acknowledged, so that sends are in flight which
were allowed before it and are written after it. Controls: permission remembered instead of asked for; who gets a
message decided when it is sent, which only a send in flight can show.
"""

import asyncio
import contextlib
import math
import random
import time
import uuid
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc
from guildhall.messaging.v1 import reaction_service_pb2 as reactions
from guildhall.messaging.v1 import reaction_service_pb2_grpc as reactions_rpc

from tests.faults.bench import Bench, Result
from tests.faults.delivery_model import explore_all
from tests.faults.losses import EXPIRED, LOCK_GUESTS, LOSSES, POLICY, SHARED_LEFT, Place
from tests.faults.people import (
    Person,
    join_by_link,
    join_by_mail,
    make_channels,
    make_guest_link,
    make_private,
    make_workspace,
    open_direct,
    take_part,
)
from tests.faults.witnesses import Posts, Witness, sums

BATCHES_PER_ROUND = 10
_MEMBER_WAYS = tuple(loss for loss in LOSSES if loss.of == "member")
_GUEST_WAYS = tuple(loss for loss in LOSSES if loss.of == "guest")
_MEMBERS, _GUESTS = len(_MEMBER_WAYS), 18
PER_BATCH = _MEMBERS + _GUESTS
_POSTERS = 3
_CHANGED = 0.3
"""Of the posts: those that are edited and reacted to."""
_MOST_INTERLEAVINGS = 100_000
_MODEL_SECONDS = 100
"""For the model of one run, whatever the number of rounds: cases that are not finished by then are reported as cut."""
CONTROLS = {
    "fresh_access": ("permission is asked afresh", (False, True)),
    "decision_at_delivery": ("who gets a message is decided when it is delivered", (True, True)),
}
"""What is taken away from messaging, in words, and in which of its batches sends are in flight."""
_WORTH_REPEATING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED)
_LOSS_WINDOW = (0.3, 0.9)
_HELD_SECONDS = 0.9
_AFTER_SECONDS = 0.6
_SECRET_SECONDS = 20
_DELIVERED_SECONDS = 10
_END_GRACE = """
    UPDATE guest.guests SET expire_at = created_at, grace_end_at = statement_timestamp() WHERE member_id = %s
"""
_GRACE = """
    UPDATE guest.guests SET expire_at = least(expire_at, asked.at), grace_end_at = asked.at
    FROM (
        SELECT member_id, statement_timestamp() + make_interval(secs => seconds) AS at
        FROM unnest(CAST(%s AS uuid[]), CAST(%s AS float8[])) AS asked (member_id, seconds)
    ) asked
    WHERE guests.member_id = asked.member_id
"""


@dataclass
class _Sum:
    interleavings: int = 0
    leaks: list[dict[str, int]] = field(default_factory=list)
    without_secret: int = 0
    not_delivered: int = 0
    ended_seconds: list[float] = field(default_factory=list)
    never_ended: int = 0
    by_way: dict[str, int] = field(default_factory=dict)

    @property
    def leaked(self) -> int:
        """All leaks."""
        return sum(sum(counts.values()) for counts in self.leaks)

    def detail(self) -> dict[str, Any]:
        """For the report."""
        return {
            "interleavings": self.interleavings,
            "by_way": self.by_way,
            "leaks": sums(self.leaks),
            "without_a_secret_after_the_loss": self.without_secret,
            "posts_not_delivered_to_who_stayed": self.not_delivered,
            "stream_ended_seconds_worst": round(max(self.ended_seconds, default=0), 3),
            "streams_that_never_ended": self.never_ended,
        }


async def run(bench: Bench) -> Result:
    """No leak, on any read path or stream."""
    found = _Sum()
    for number in range(bench.rounds):
        bench.tell(f"round {number + 1} of {bench.rounds}: {BATCHES_PER_ROUND * PER_BATCH} interleavings")
        for batch in range(BATCHES_PER_ROUND):
            await _batch(bench, found, holds_sends=batch % 3 == 2)
        for holds_sends in (False, True):
            await _batch(bench, found, holds_sends=holds_sends, is_direct=True)
    bench.tell("model: every interleaving of one loss, one send, one stream or read")
    model = await asyncio.to_thread(asyncio.run, explore_all(most=_MOST_INTERLEAVINGS, seconds=_MODEL_SECONDS))
    model_leaks = sum(counts["leaks"] for counts in model.values())
    controls = {protection: await _control(bench, protection) for protection in CONTROLS}
    return Result(
        rounds=bench.rounds,
        holds=not (found.leaked or found.without_secret or found.not_delivered or model_leaks),
        control_failed=all(control.leaked for control in controls.values()),
        detail={
            **found.detail(),
            "model": {
                "interleavings": sum(counts["interleavings"] for counts in model.values()),
                "leaks": model_leaks,
                "cases_cut_by_time": sum(counts["cut"] for counts in model.values()),
            },
            "model_by_case": model,
            "control": [
                {"protection_off": CONTROLS[protection][0], **control.detail()}
                for protection, control in controls.items()
            ],
        },
    )


async def _control(bench: Bench, protection: str) -> _Sum:
    found = _Sum()
    title, batches = CONTROLS[protection]
    bench.tell(f"control without this: {title}")
    await bench.cluster.run_as("messaging", launcher=("--without", protection))
    try:
        for holds_sends in batches:
            await _batch(bench, found, holds_sends=holds_sends)
    finally:
        await bench.cluster.run_as("messaging")
    return found


class _Stage:
    """One workspace with one channel, its owner who posts, who stays, and who is about to lose access."""

    def __init__(
        self, owner: Person, workspace_id: str, conversation_id: str, *, channel_id: str = "", other_link: str = ""
    ) -> None:
        self.owner = owner
        self.other_link = other_link
        self.channel_id = channel_id or conversation_id
        self.workspace_id = workspace_id
        self.conversation_id = conversation_id
        self.posts = Posts()
        self.witnesses: list[Witness] = []
        self._stopping = False
        self._posters: list[asyncio.Task[None]] = []

    def witness(self, person: Person, member_id: str, how: str) -> Witness:
        """Somebody of this workspace."""
        return Witness(
            person,
            member_id=member_id,
            workspace_id=self.workspace_id,
            conversation_id=self.conversation_id,
            how=how,
            keeps=next((loss.keeps for loss in LOSSES if loss.name == how), ""),
        )

    def start_posting(self) -> None:
        """The owner posts, several at a time."""
        self._posters = [asyncio.create_task(self._post_again_and_again()) for _ in range(_POSTERS)]

    async def stop_posting(self) -> None:
        """Waits for the posts at hand."""
        self._stopping = True
        await asyncio.gather(*self._posters)

    async def _post_again_and_again(self) -> None:
        while not self._stopping:
            key = str(uuid.uuid4())
            answer = await self._post(key, self._send(key))
            if answer is not None and random.random() < _CHANGED:
                await self._change(key, answer.message.message_id)
            await asyncio.sleep(random.uniform(0.01, 0.06))

    async def _change(self, key: str, message_id: str) -> None:
        """Edits a post and reacts to it: either is a secret of its own."""
        place = {"workspace_id": self.workspace_id, "conversation_id": self.conversation_id, "message_id": message_id}
        edited, emoji = str(uuid.uuid4()), uuid.uuid4().hex
        self.posts.edited.add(key)
        edit = messages.EditMessageRequest(**place, text=f"{edited} secret")
        await self._post(edited, self.owner.call(messages_rpc.MessageServiceStub, "EditMessage", edit))
        react = reactions.AddReactionRequest(**place, emoji=emoji)
        await self._post(emoji, self.owner.call(reactions_rpc.ReactionServiceStub, "AddReaction", react))

    def _send(self, key: str) -> Awaitable[Any]:
        request = messages.SendMessageRequest(
            workspace_id=self.workspace_id,
            conversation_id=self.conversation_id,
            client_message_id=key,
            text=f"{key} secret",
        )
        return self.owner.call(messages_rpc.MessageServiceStub, "SendMessage", request)

    async def _post(self, key: str, call: Awaitable[Any]) -> Any:
        """The answer; None if whether it was stored is not known, so that nothing is concluded from it."""
        self.posts.begin(key)
        try:
            answer = await call
            self.posts.stored.add(key)
        except grpc.aio.AioRpcError:
            answer = None
        self.posts.under_way.discard(key)
        return answer


async def _batch(bench: Bench, found: _Sum, *, holds_sends: bool, is_direct: bool = False) -> None:
    stage, stays = await (_set_direct(bench) if is_direct else _set(bench))
    await asyncio.gather(*(witness.write() for witness in (stays, *stage.witnesses)))
    await stays.start()
    stage.start_posting()
    delays = [random.uniform(*_LOSS_WINDOW) for _ in stage.witnesses]
    expired = [witness for witness in stage.witnesses if witness.how == EXPIRED]
    await _prepare(bench, stage)
    await _expire(bench, expired, delays)
    await asyncio.gather(*(witness.start() for witness in stage.witnesses))
    losing = [
        _take_access(bench, stage, witness, delay)
        for witness, delay in zip(stage.witnesses, delays, strict=True)
        if witness.how != EXPIRED
    ]
    if holds_sends:
        losing.append(_hold_sends(bench, stage))
    await asyncio.gather(*losing)
    await _until_there_are_secrets(stage)
    await asyncio.sleep(_AFTER_SECONDS)
    await stage.stop_posting()
    await _delivered(stage, stays)
    await asyncio.gather(stays.stop(), *(witness.stop() for witness in stage.witnesses))
    _count(found, stage, stays)


async def _set(bench: Bench) -> tuple[_Stage, Witness]:
    """A private channel: what a member sees of it hangs on taking part."""
    owner, stayer, *others = await bench.people.take(2 + PER_BATCH)
    workspace_id = await make_workspace(owner)
    conversation_id, other_id = await make_channels(owner, workspace_id, 2)
    other_link = await make_guest_link(owner, workspace_id, other_id)
    stage = _Stage(owner, workspace_id, conversation_id, other_link=other_link)
    link = await make_guest_link(owner, workspace_id, conversation_id)
    losers, guests = others[:_MEMBERS], others[_MEMBERS:]
    joined = await asyncio.gather(
        *(join_by_mail(bench.people, owner, person, workspace_id) for person in (stayer, *losers))
    )
    await asyncio.gather(*(take_part(person, workspace_id, conversation_id) for person in (stayer, *losers)))
    await make_private(owner, workspace_id, conversation_id)
    invited = await asyncio.gather(*(join_by_link(person, link) for person in guests))
    for loss, person, member_id in zip(_MEMBER_WAYS, losers, joined[1:], strict=True):
        stage.witnesses.append(stage.witness(person, member_id, loss.name))
    for number, (person, member_id) in enumerate(zip(guests, invited, strict=True)):
        stage.witnesses.append(stage.witness(person, member_id, _GUEST_WAYS[number % len(_GUEST_WAYS)].name))
    return stage, stage.witness(stayer, joined[0], "stays")


async def _set_direct(bench: Bench) -> tuple[_Stage, Witness]:
    """A direct conversation of the owner, somebody who stays and a guest, who loses it when the owner leaves theirs."""
    owner, stayer, guest = await bench.people.take(3)
    workspace_id = await make_workspace(owner)
    channel_id = (await make_channels(owner, workspace_id, 1))[0]
    stayer_id = await join_by_mail(bench.people, owner, stayer, workspace_id)
    await take_part(stayer, workspace_id, channel_id)
    guest_id = await join_by_link(guest, await make_guest_link(owner, workspace_id, channel_id))
    conversation_id = await open_direct(owner, workspace_id, stayer_id, guest_id)
    stage = _Stage(owner, workspace_id, conversation_id, channel_id=channel_id)
    stage.witnesses.append(stage.witness(guest, guest_id, SHARED_LEFT))
    return stage, stage.witness(stayer, stayer_id, "stays")


async def _prepare(bench: Bench, stage: _Stage) -> None:
    """Locks the guests whose grace is to be shortened: they read on until that."""
    locked = [witness.member_id for witness in stage.witnesses if witness.how == POLICY]
    async with await bench.cluster.admin() as admin:
        await admin.execute(LOCK_GUESTS, [locked])


async def _expire(bench: Bench, guests: Sequence[Witness], delays: Sequence[float]) -> None:
    """Sets the end of the grace, so that nobody has to wait a day. Before the streams open, as an admin would not."""
    seconds = [1.0 + delay for delay in delays[: len(guests)]]
    async with await bench.cluster.admin() as admin:
        asked_at = time.monotonic()
        await admin.execute(_GRACE, [[guest.member_id for guest in guests], seconds])
        answered_at = time.monotonic()
    for guest, later in zip(guests, seconds, strict=True):
        # The database's clock read somewhere between the two.
        guest.near_loss_from, guest.lost_at = asked_at + later, answered_at + later


async def _take_access(bench: Bench, stage: _Stage, witness: Witness, delay: float) -> None:
    async def end_grace(member_id: str) -> None:
        async with await bench.cluster.admin() as admin:
            await admin.execute(_END_GRACE, [member_id])

    witness.near_loss_from = time.monotonic() + delay
    await asyncio.sleep(delay)
    loss = next(each for each in LOSSES if each.name == witness.how)
    place = Place(
        owner=stage.owner,
        workspace_id=stage.workspace_id,
        conversation_id=stage.conversation_id,
        channel_id=stage.channel_id,
        request_id=str(uuid.uuid4()),
        end_grace=end_grace,
        other_link=stage.other_link,
    )
    while witness.lost_at is None:
        try:
            later = await loss.take(place, witness)
            witness.lost_at = time.monotonic() + later
            witness.near_loss_from += later
            await asyncio.sleep(later)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _WORTH_REPEATING:
                raise


async def _hold_sends(bench: Bench, stage: _Stage) -> None:
    """Locks the conversation over the time of the losses: what is sent meanwhile is written after them."""
    await asyncio.sleep(_LOSS_WINDOW[0])
    async with await bench.cluster.admin() as admin, admin.transaction():
        await admin.execute("SELECT 1 FROM messaging.conversations WHERE id = %s FOR UPDATE", [stage.conversation_id])
        locked_at = time.monotonic()
        await asyncio.sleep(_HELD_SECONDS)
        stage.posts.held_back_until_now(since=locked_at)


def _count(found: _Sum, stage: _Stage, stays: Witness) -> None:
    for witness in stage.witnesses:
        assert witness.lost_at is not None
        found.interleavings += 1
        found.by_way[witness.how] = found.by_way.get(witness.how, 0) + 1
        found.leaks.append(witness.leaks(stage.posts))
        found.without_secret += not stage.posts.after(witness.lost_at)
        if witness.seen.ended_at is None:
            found.never_ended += witness.is_told_of_the_end
        else:
            found.ended_seconds.append(witness.seen.ended_at - witness.lost_at)
    found.not_delivered += len(stage.posts.to_be_told - stays.seen.streamed)


async def _until_there_are_secrets(stage: _Stage) -> None:
    """Waits until something was posted after each loss: without that, nothing could leak."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SECRET_SECONDS):
            for witness in stage.witnesses:
                while not stage.posts.after(witness.lost_at or math.inf):  # noqa: ASYNC110 - as below
                    await asyncio.sleep(0.02)


async def _delivered(stage: _Stage, stays: Witness) -> None:
    """Waits until who stayed has everything; what they still miss then counts as not delivered."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DELIVERED_SECONDS):
            while not stage.posts.to_be_told <= stays.seen.streamed:  # noqa: ASYNC110 - a stream sets no event of ours
                await asyncio.sleep(0.02)
