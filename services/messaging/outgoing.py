"""The queue that every message passes: session and permission of a whole batch, then its rows in one statement.

One flush is in flight, the next gathers meanwhile. A conversation whose row is locked by somebody else leaves for a
side lane, which waits for it, and its later messages follow; nobody else waits. Guests' messages leave for a queue of
their own, with side lanes of its own: whatever keeps guest from answering is nobody else's.
"""

import asyncio
import functools
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import grpc
from sqlalchemy import exc

from services.chassis.coalesce import FLUSH_SECONDS, Coalescer
from services.chassis.database import TRIES, Database
from services.chassis.errors import DeadlineExceeded, Overloaded, fault_of
from services.messaging import metrics, sends
from services.messaging.errors import ConversationArchived
from services.messaging.group_lookups import GroupLookups
from services.messaging.peers import Guests, Membership
from services.messaging.permits import GUEST, Permits
from services.messaging.rates import Places, Rates
from services.messaging.sends import SKIPPED, Outcome, Send, Stored

ANSWER_SECONDS = 0.25
"""How old the answer about permission may be when the lock is granted."""
BATCH = 400
MOST_WAITING = 5000
MOST_WAITING_OF_WORKSPACE = MOST_WAITING // 2
RETRYABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
"""What ends the stream: another try may do better, so nothing may overtake the message that failed."""
LANE_PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 0.1
MOST_LANES_WRITING = 2
"""Of the pool's four connections for transactions: stalled conversations never keep the others from theirs."""

Answer = Stored | asyncio.Future[Stored]
"""Stored, or the side lane's promise of it."""


class Outgoing:
    """Takes messages and stores them. `on_stored` is told which conversations have something new."""

    def __init__(
        self,
        database: Database,
        *,
        check_sessions: Callable[[Sequence[str], float], Awaitable[Sequence[bool]]],
        membership: Membership,
        guests: Guests,
        on_stored: Callable[[Iterable[str]], None],
        rates: Rates,
        groups: GroupLookups,
    ) -> None:
        self._database = database
        self._permits = Permits(check_sessions=check_sessions, membership=membership, guests=guests, groups=groups)
        self._on_stored = on_stored
        self._rates = rates
        self._places, self._places_aside = Places(MOST_WAITING_OF_WORKSPACE), Places(MOST_WAITING_OF_WORKSPACE)
        self._queue: Coalescer[Send, Answer] = Coalescer(
            self._flush,
            name="messages",
            batch_limit=BATCH,
            queue_limit=MOST_WAITING,
            on_expired=lambda send: _break(send, DeadlineExceeded()),
            on_left=lambda send: self._places.leave(send.workspace_id),
        )
        self._guest_queue: Coalescer[Send, Answer] = Coalescer(
            functools.partial(self._flush, of_guests=True),
            name="messages_of_guests",
            batch_limit=BATCH,
            queue_limit=MOST_WAITING,
            on_expired=lambda send: _break(send, DeadlineExceeded()),
        )
        self._passed_on: Counter[tuple[str, str]] = Counter()
        """Messages in the guests' queue, by conversation and sender: who became a full member stays behind them."""
        self._lanes: dict[str, _Lane] = {}
        self._guest_lanes: dict[str, _Lane] = {}
        self._lanes_writing = asyncio.Semaphore(MOST_LANES_WRITING)
        metrics.SIDE_LANES.set_function(lambda: len(self._lanes) + len(self._guest_lanes))

    def submit(self, send: Send) -> asyncio.Future[Answer]:
        """Queues a message; messages of one conversation are stored in the order in which they were queued.

        Errors: LimitReached and Overloaded, at once: whoever feeds a stream must submit nothing more of it.
        """
        self._places.require(send.workspace_id)
        # Before it is counted: who comes back after an overload must not find the rate used up by it.
        self._queue.require_room()
        self._rates.charge(workspace_id=send.workspace_id, user_id=send.user_id)
        answer = self._queue.submit(send, deadline=send.deadline)
        self._places.take(send.workspace_id)
        return answer

    async def send(self, send: Send) -> Stored:
        """Stores one message. Errors: those of SendMessage."""
        answer = await self.submit(send)
        return answer if isinstance(answer, Stored) else await answer

    async def _flush(
        self, batch: Sequence[Send], timeout_seconds: float, *, of_guests: bool = False
    ) -> Sequence[Answer | BaseException]:
        try:
            answers = await self._flush_unbroken(batch, timeout_seconds, of_guests=of_guests)
        except BaseException as error:
            # Before the next batch is taken: what waits there of the same streams must not overtake these.
            for send in batch:
                _break(send, error if isinstance(error, Exception) else DeadlineExceeded())
            raise
        for send in batch:
            self._note(send, answers[send])
        return [answers[send] for send in batch]

    def _note(self, send: Send, outcome: object) -> None:
        """What a message's end means for others: those behind it in its stream, and the rest of its workspace's."""
        if not isinstance(outcome, BaseException):
            return
        if ends_stream(outcome):
            _break(send, outcome)
        if not send.member_id:
            self._rates.spare_workspace(send.workspace_id)

    async def _flush_unbroken(
        self, batch: Sequence[Send], timeout_seconds: float, *, of_guests: bool
    ) -> dict[Send, Answer | BaseException]:
        answers: dict[Send, Answer | BaseException] = {}
        lanes = self._guest_lanes if of_guests else self._lanes
        main = []
        for send in batch:
            if send.line is not None and send.line.broken_by is not None:
                answers[send] = send.line.broken_by
            elif send.conversation_id in lanes:
                answers[send] = self._set_aside(send, of_guests=of_guests)
            else:
                main.append(send)
        for send, outcome in (await self._store(main, timeout_seconds, of_guests=of_guests)).items():
            if outcome is SKIPPED:
                answers[send] = self._set_aside(send, of_guests=of_guests)
            elif outcome is GUEST:
                answers[send] = self._pass_on(send)
            else:
                answers[send] = outcome  # type: ignore[assignment]  # Stored or why not
        return answers

    def _set_aside(self, send: Send, *, of_guests: bool) -> asyncio.Future[Stored] | Overloaded:
        lanes = self._guest_lanes if of_guests else self._lanes
        # The queue's own bound does not count what has left it for a lane.
        if sum(len(lane.waiting) for lane in lanes.values()) >= MOST_WAITING:
            return Overloaded()
        try:
            self._places_aside.require(send.workspace_id)
        except Overloaded as error:
            return error
        self._places_aside.take(send.workspace_id)
        lane = lanes.get(send.conversation_id)
        if lane is None:
            drive = functools.partial(self._drive, send.conversation_id, of_guests=of_guests)
            lane = lanes[send.conversation_id] = _Lane(drive)
        future = lane.add(send)
        future.add_done_callback(lambda _ended: self._places_aside.leave(send.workspace_id))
        return future

    def _pass_on(self, send: Send) -> asyncio.Future[Stored] | Overloaded:
        """Hands a guest's message to the guests' queue, behind what that has of the same sender."""
        try:
            self._places_aside.require(send.workspace_id)
            queued = self._guest_queue.submit(send, deadline=send.deadline)
        except Overloaded as error:
            return error
        self._places_aside.take(send.workspace_id)
        self._passed_on[send.conversation_id, send.user_id] += 1
        ended = asyncio.ensure_future(_end_of(queued))

        def note(_ended: asyncio.Future[Stored]) -> None:
            # Looked at here, because a caller who went away no longer does; and so that it leaves the queue with them.
            ended.cancelled() or ended.exception()
            queued.cancel()
            self._places_aside.leave(send.workspace_id)
            self._passed_on[send.conversation_id, send.user_id] -= 1
            if not self._passed_on[send.conversation_id, send.user_id]:
                del self._passed_on[send.conversation_id, send.user_id]

        ended.add_done_callback(note)
        return ended

    async def _drive(
        self, conversation_id: str, waiting: "deque[tuple[Send, asyncio.Future[Stored]]]", *, of_guests: bool
    ) -> None:
        """Works a side lane off, then closes it."""
        try:
            while waiting:
                entries = [waiting.popleft() for _ in range(min(len(waiting), BATCH))]
                entries = [entry for entry in entries if not entry[1].done()]
                if not entries:
                    continue
                outcomes: Mapping[Send, Outcome | BaseException]
                try:
                    outcomes = await self._store_waiting([send for send, _ in entries], of_guests=of_guests)
                except Exception as error:
                    outcomes = {send: error for send, _ in entries}
                for send, future in entries:
                    outcome = self._pass_on(send) if outcomes[send] is GUEST else outcomes[send]
                    self._note(send, outcome)
                    _settle(future, outcome)
        finally:
            del (self._guest_lanes if of_guests else self._lanes)[conversation_id]
            for _, future in waiting:
                future.cancel()

    async def _store_waiting(self, batch: Sequence[Send], *, of_guests: bool) -> dict[Send, Outcome]:
        """Tries until the longest item's time is over, asking for permission anew each time.

        First without waiting: the lock is mostly another replica's, and free again. A place to wait in is held for one
        try, and not waited for, so that stalled conversations do not keep it from the others.
        """
        pause, waits = LANE_PAUSE_SECONDS, False
        late: dict[Send, Outcome] = {}
        while True:
            live = []
            for send in batch:
                if send.deadline <= time.monotonic():
                    # Before the next one is looked at: it may be of the same stream, and have time left.
                    _break(send, DeadlineExceeded())
                    late[send] = DeadlineExceeded()
                elif _is_broken(send):
                    late[send] = DeadlineExceeded()
                else:
                    live.append(send)
            if not live:
                return late
            # Not for guests: a place is held while guest is asked, too.
            if waits and not of_guests and not self._lanes_writing.locked():
                async with self._lanes_writing:
                    outcomes = await self._store(live, FLUSH_SECONDS, wait=True)
            else:
                outcomes = await self._store(live, FLUSH_SECONDS, of_guests=of_guests)
            if not any(outcome is SKIPPED for outcome in outcomes.values()):
                return late | outcomes
            waits = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _store(
        self, batch: Sequence[Send], timeout_seconds: float, *, wait: bool = False, of_guests: bool = False
    ) -> dict[Send, Outcome]:
        """Asks, then writes. SKIPPED are those whose lock was not had, or too late for what was answered.

        GUEST are those of guests, which are written only if it is called `of_guests`.
        """
        outcomes: dict[Send, Outcome] = {}
        if not of_guests and self._passed_on:
            outcomes = {send: GUEST for send in batch if (send.conversation_id, send.user_id) in self._passed_on}
            batch = [send for send in batch if send not in outcomes]
        if not batch:
            return outcomes
        asked_at = time.monotonic()
        permitted = []
        answers = await self._permits.ask(batch, timeout_seconds, of_guests=of_guests)
        for send, answer in zip(batch, answers, strict=True):
            if answer is None:
                permitted.append(send)
            else:
                outcomes[send] = answer
        if not permitted:
            return outcomes
        distinct, first = sends.distinct(permitted)
        written = dict(zip(distinct, await self._write(distinct, asked_at, wait=wait), strict=True))
        for send in permitted:
            outcome = written[first[send.key]]
            outcomes[send] = outcome if first[send.key] is send else sends.repeated(send, first[send.key], outcome)
        self._on_stored({send.conversation_id for send in distinct if isinstance(written[send], Stored)})
        return outcomes

    async def _write(self, batch: Sequence[Send], asked_at: float, *, wait: bool) -> Sequence[Outcome]:
        if not wait and not any(send.extras and send.extras.refers for send in batch):
            if time.monotonic() - asked_at > ANSWER_SECONDS:
                return [SKIPPED] * len(batch)
            try:
                outcomes = await self._database.atomic(lambda tx: sends.append(tx, sends=batch))
            except exc.IntegrityError:
                pass  # some of it is stored already: written again below, each once
            else:
                return await self._look_again(batch, outcomes, asked_at)
        return await self._write_once(batch, asked_at, wait=wait)

    async def _look_again(self, batch: Sequence[Send], outcomes: list[Outcome], asked_at: float) -> list[Outcome]:
        """Finds those that were stored before their conversation was archived."""
        places = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, ConversationArchived)]
        if places:
            found = await self._write_once([batch[place] for place in places], asked_at, wait=False)
            for place, outcome in zip(places, found, strict=True):
                outcomes[place] = outcome
        return outcomes

    async def _write_once(self, batch: Sequence[Send], asked_at: float, *, wait: bool) -> list[Outcome]:
        try:
            return await self._database.transaction(
                lambda tx: sends.append_once(tx, sends=batch, wait=wait, not_after=asked_at + ANSWER_SECONDS),
                tries=1 if wait else TRIES,
            )
        except sends.AnsweredTooLongAgo:
            return [SKIPPED] * len(batch)
        except Exception as error:
            fault = fault_of(error)
            if fault is None or not wait:
                raise
            # The lock was not had in the role's time: the lane tries again.
            return [SKIPPED] * len(batch)


class _Lane:
    """The side lane of one conversation: what waits, and the task that works it off."""

    def __init__(self, drive: "Callable[[deque[tuple[Send, asyncio.Future[Stored]]]], Awaitable[None]]") -> None:
        self.waiting: deque[tuple[Send, asyncio.Future[Stored]]] = deque()
        self._drive = drive
        self._task: asyncio.Task[None] | None = None

    def add(self, send: Send) -> asyncio.Future[Stored]:
        future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        # Looked at here, because a caller who went away no longer does.
        future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        self.waiting.append((send, future))
        if self._task is None:
            self._task = asyncio.ensure_future(self._drive(self.waiting))
        return future


def ends_stream(error: BaseException) -> bool:
    """Whether another try may do better: then nothing may overtake the message that met it."""
    fault = fault_of(error)
    return fault is None or fault.code in RETRYABLE


def _break(send: Send, error: BaseException) -> None:
    if send.line is not None and send.line.broken_by is None:
        send.line.broken_by = error


def _is_broken(send: Send) -> bool:
    return send.line is not None and send.line.broken_by is not None


async def _end_of(queued: asyncio.Future[Answer]) -> Stored:
    answer = await queued
    return answer if isinstance(answer, Stored) else await answer


def _settle(future: asyncio.Future[Stored], outcome: Outcome | BaseException) -> None:
    """Gives a promise what became of its message; that may be another promise, which then ends with it."""
    if isinstance(outcome, asyncio.Future):
        outcome.add_done_callback(lambda ended: _settle(future, _outcome_of(ended)))
        future.add_done_callback(lambda _ended: outcome.cancel())
    elif future.done():
        return
    elif isinstance(outcome, asyncio.CancelledError):
        future.cancel()
    elif isinstance(outcome, Stored):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)  # type: ignore[arg-type]  # a lane settles nothing as SKIPPED


def _outcome_of(ended: asyncio.Future[Stored]) -> Stored | BaseException:
    return asyncio.CancelledError() if ended.cancelled() else ended.exception() or ended.result()
