"""The queue that every message passes: session and permission of a whole batch, then its rows in one statement.

One flush is in flight, the next gathers meanwhile. A conversation whose row is locked by somebody else leaves for a
side lane, which waits for it, and its later messages follow; nobody else waits.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import grpc
from guildhall.guest.v1 import guest_access_service_pb2 as guests_pb
from guildhall.membership.v1 import access_service_pb2 as access_pb
from sqlalchemy import exc

from services.chassis.coalesce import FLUSH_SECONDS, Coalescer
from services.chassis.database import TRIES, Database
from services.chassis.errors import DeadlineExceeded, Fault, NotFound, Overloaded, SessionEnded, fault_of
from services.messaging import metrics, sends
from services.messaging.access import SEND, has_ended, is_guest, lock_of, time_of
from services.messaging.errors import ConversationArchived
from services.messaging.group_lookups import GroupLookups
from services.messaging.peers import GuestChannels, Guests, Membership, history_start
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
        self._groups = groups
        self._check_sessions = check_sessions
        self._membership = membership
        self._guests = guests
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
        self._lanes: dict[str, _Lane] = {}
        self._lanes_writing = asyncio.Semaphore(MOST_LANES_WRITING)
        metrics.SIDE_LANES.set_function(lambda: len(self._lanes))

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

    async def _flush(self, batch: Sequence[Send], timeout_seconds: float) -> Sequence[Answer | BaseException]:
        try:
            answers = await self._flush_unbroken(batch, timeout_seconds)
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
        self, batch: Sequence[Send], timeout_seconds: float
    ) -> dict[Send, Answer | BaseException]:
        answers: dict[Send, Answer | BaseException] = {}
        main = []
        for send in batch:
            if send.line is not None and send.line.broken_by is not None:
                answers[send] = send.line.broken_by
                continue
            lane = self._lanes.get(send.conversation_id)
            if lane is None:
                main.append(send)
            else:
                answers[send] = self._set_aside(send)
        for send, outcome in (await self._store(main, timeout_seconds)).items():
            if outcome is SKIPPED:
                answers[send] = self._set_aside(send)
            else:
                answers[send] = outcome  # type: ignore[assignment]  # Stored or a Fault
        return answers

    def _set_aside(self, send: Send) -> asyncio.Future[Stored] | Overloaded:
        # The queue's own bound does not count what has left it for a lane.
        if sum(len(lane.waiting) for lane in self._lanes.values()) >= MOST_WAITING:
            return Overloaded()
        try:
            self._places_aside.require(send.workspace_id)
        except Overloaded as error:
            return error
        self._places_aside.take(send.workspace_id)
        future = self._lane(send.conversation_id).add(send)
        future.add_done_callback(lambda _ended: self._places_aside.leave(send.workspace_id))
        return future

    def _lane(self, conversation_id: str) -> "_Lane":
        lane = self._lanes.get(conversation_id)
        if lane is None:
            lane = self._lanes[conversation_id] = _Lane(lambda waiting: self._drive(conversation_id, waiting))
        return lane

    async def _drive(self, conversation_id: str, waiting: "deque[tuple[Send, asyncio.Future[Stored]]]") -> None:
        """Works a side lane off, then closes it."""
        try:
            while waiting:
                entries = [waiting.popleft() for _ in range(min(len(waiting), BATCH))]
                entries = [entry for entry in entries if not entry[1].done()]
                if not entries:
                    continue
                outcomes: Mapping[Send, Outcome | BaseException]
                try:
                    outcomes = await self._store_waiting([send for send, _ in entries])
                except Exception as error:
                    outcomes = {send: error for send, _ in entries}
                for send, future in entries:
                    self._note(send, outcomes[send])
                    _settle(future, outcomes[send])
        finally:
            del self._lanes[conversation_id]
            for _, future in waiting:
                future.cancel()

    async def _store_waiting(self, batch: Sequence[Send]) -> dict[Send, Outcome]:
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
            if waits and not self._lanes_writing.locked():
                async with self._lanes_writing:
                    outcomes = await self._store(live, FLUSH_SECONDS, wait=True)
            else:
                outcomes = await self._store(live, FLUSH_SECONDS)
            if not any(outcome is SKIPPED for outcome in outcomes.values()):
                return late | outcomes
            waits = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _store(self, batch: Sequence[Send], timeout_seconds: float, *, wait: bool = False) -> dict[Send, Outcome]:
        """Asks, then writes. SKIPPED are those whose lock was not had, or too late for what was answered."""
        outcomes: dict[Send, Outcome] = {}
        if not batch:
            return outcomes
        asked_at = time.monotonic()
        permitted = []
        for send, fault in zip(batch, await self._permit(batch, timeout_seconds), strict=True):
            if fault is None:
                permitted.append(send)
            else:
                outcomes[send] = fault
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

    async def _permit(self, batch: Sequence[Send], timeout_seconds: float) -> list[Fault | None]:
        """Fills in what membership and guest say of each sender; a fault for each item that may not be written."""
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
        faults = [
            _fault(send, alive=sessions[send.session_id], verdict=verdict, group_id=groups.get(send.conversation_id))
            for send, verdict in zip(batch, decided, strict=True)
        ]
        guests = [number for number, fault in enumerate(faults) if fault is None and is_guest(decided[number])]
        if guests:
            asked = [batch[number] for number in guests]
            for number, fault in zip(guests, await self._permit_guests(asked, timeout_seconds), strict=True):
                faults[number] = fault
        return faults

    async def _permit_guests(self, batch: Sequence[Send], timeout_seconds: float) -> list[Fault | None]:
        questions = [
            guests_pb.GuestQuestion(
                workspace_id=send.workspace_id, member_id=send.member_id, conversation_id=send.conversation_id
            )
            for send in batch
        ]
        verdicts = await self._guests.decide(questions, timeout_seconds)
        asked = {
            (send.workspace_id, send.member_id)
            for send, verdict in zip(batch, verdicts, strict=True)
            if not verdict.granted and not has_ended(verdict)
        }
        # A direct conversation hangs on all of a guest's channels.
        answers = await asyncio.gather(
            *(
                self._guests.channels(workspace_id=workspace_id, member_id=member_id)
                for workspace_id, member_id in asked
            )
        )
        channels = dict(zip(asked, answers, strict=True))
        return [
            _guest_fault(send, verdict, channels.get((send.workspace_id, send.member_id)))
            for send, verdict in zip(batch, verdicts, strict=True)
        ]


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


def _settle(future: asyncio.Future[Stored], outcome: Outcome | BaseException) -> None:
    if future.done():
        return
    if isinstance(outcome, Stored):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)  # type: ignore[arg-type]  # a lane settles nothing as SKIPPED


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


def _guest_fault(send: Send, verdict: guests_pb.GuestVerdict, channels: GuestChannels | None) -> Fault | None:
    """`channels` are all of the guest's, where the conversation is not one of them."""
    if has_ended(verdict):
        return NotFound()
    until = time_of(verdict)
    if verdict.granted:
        send.granted, send.since = (send.conversation_id,), history_start(verdict)
    elif channels is not None and not channels.ended:
        send.granted, until = tuple(channels.grants), min(until, channels.until or until)
    else:
        return NotFound()
    send.until, send.locked = until.isoformat(), lock_of(verdict)
    if send.locked is not None:
        # Refused by the statement, after it is known whether they see the conversation.
        send.allowed, send.until = False, None
    return None
