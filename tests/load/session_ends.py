"""How soon a session that is ended is out everywhere: its open streams, and the next call with its token."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import session_service_pb2 as sessions
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.messaging.v1 import event_service_pb2 as events
from guildhall.messaging.v1 import message_service_pb2 as messages

from services.chassis.errors import info_of
from tests.load.callers import CALL_SECONDS
from tests.load.generator import Control
from tests.load.histogram import Histogram
from tests.load.lab import Figure, Lab
from tests.load.people import PASSWORD, Crowd, Person, gather, sign_in
from tests.load.wire import GET_USER, LIST, SUBSCRIBE, bearer, close_channels, now, open_channels

PEOPLE = 34
"""With three streams each: one for each way in which a session ends before its time."""
GOAL_SECONDS = 1.0
_AT_ONCE = 12
_CONNECTIONS = 10
_LONGEST_SECONDS = 10.0
_REVOKE = "/guildhall.identity.v1.SessionService/RevokeSession"
_CHANGE = "/guildhall.identity.v1.AuthService/ChangePassword"
_DISABLE = "/guildhall.identity.v1.UserService/DisableUser"


@dataclass(frozen=True)
class Ending:
    """A call, and the session that it ends: `token` is of that session, `by` of the caller."""

    path: str
    body: bytes
    by: str
    token: str

    @property
    def cause(self) -> str:
        """The RPC's name."""
        return self.path.rpartition("/")[2]


@dataclass
class Ended:
    """What came of endings. `faults` are what should not have been, and how often."""

    streams: int = 0
    calls_refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    latency: dict[str, Histogram] = field(default_factory=dict)
    """From the answer to the call until its stream's last frame, by cause."""


@dataclass(frozen=True)
class Endings:
    """Opens a stream for each ending, all of them first; then ends them, each person's in their order."""

    target: str
    workspace_id: str
    conversation_id: str
    of_people: Sequence[Sequence[Ending]]

    async def run(self, control: Control) -> Ended:
        """Measure. A stream that has not ended after 10 s counts with these."""
        channels = open_channels(self.target, _CONNECTIONS)
        try:
            return await _Measuring(self, channels, control).run()
        finally:
            await close_channels(channels)


class _Measuring:
    """One run of `Endings`."""

    def __init__(self, job: Endings, channels: Sequence[grpc.aio.Channel], control: Control) -> None:
        self._job = job
        self._channels = channels
        self._control = control
        self._turnstile = asyncio.Semaphore(_AT_ONCE)
        self._list = messages.ListMessagesRequest(workspace_id=job.workspace_id, conversation_id=job.conversation_id)
        self._found = Ended()

    async def run(self) -> Ended:
        streams = await asyncio.gather(*(self._open(endings, n) for n, endings in enumerate(self._job.of_people)))
        try:
            await asyncio.gather(*map(self._end_all, self._job.of_people, streams))
        finally:
            for stream in (stream for opened in streams for stream in opened):
                stream.cancel()
        return self._found

    async def _open(self, endings: Sequence[Ending], number: int) -> list["asyncio.Task[int]"]:
        """A stream for each of the sessions, past its first frame: the task is the time of its last."""
        subscribe: Any = self._channels[number % len(self._channels)].unary_stream(SUBSCRIBE)
        request = events.SubscribeRequest(workspace_id=self._job.workspace_id).SerializeToString()
        streams = []
        for ending in endings:
            async with self._turnstile:
                call = subscribe(request, metadata=bearer(ending.token))
                async with asyncio.timeout(_LONGEST_SECONDS):
                    frame = await call.read()
                if frame is grpc.aio.EOF:
                    raise RuntimeError(f"not opened: {await call.code()} {await call.details()}")
            streams.append(asyncio.create_task(self._listen(call)))
            self._found.streams += 1
        return streams

    async def _listen(self, call: Any) -> int:
        """When the frame that ends the stream came."""
        while (raw := await call.read()) is not grpc.aio.EOF:
            response = events.SubscribeResponse.FromString(raw)
            if response.HasField("end"):
                ended = now()
                if response.end.reason != events.STREAM_END_REASON_SESSION_ENDED:
                    self._found.faults[events.StreamEndReason.Name(response.end.reason)] += 1
                return ended
        self._found.faults[f"stream ended with status {(await call.code()).name}"] += 1
        return now()

    async def _end_all(self, endings: Sequence[Ending], streams: Sequence["asyncio.Task[int]"]) -> None:
        async with self._turnstile:
            for ending, stream in zip(endings, streams, strict=True):
                await self._end(ending, stream)
                self._control.tell(sum(histogram.total for histogram in self._found.latency.values()))

    async def _end(self, ending: Ending, stream: "asyncio.Task[int]") -> None:
        channel: Any = self._channels[hash(ending.by) % len(self._channels)]
        # Somewhere between two looks of the service at its sessions; the stream that ended before this one was ended
        # by such a look, and everything would always begin right after one.
        await asyncio.sleep(random.uniform(0, 1))
        if stream.done():
            self._found.faults["stream ended before its session"] += 1
        for path in (GET_USER, LIST):
            if refusal := await self._refusal(channel, path, ending.token):
                self._found.faults[f"refused before: {refusal}"] += 1
        await channel.unary_unary(ending.path)(ending.body, metadata=bearer(ending.by), timeout=CALL_SECONDS)
        acknowledged = now()
        for refusal in await asyncio.gather(
            *(self._refusal(channel, path, ending.token) for path in (GET_USER, LIST)),
        ):
            if refusal == "SESSION_ENDED":
                self._found.calls_refused += 1
            else:
                self._found.faults[f"call after the end: {refusal or 'OK'}"] += 1
        await asyncio.wait([stream], timeout=_LONGEST_SECONDS)
        took = stream.result() - acknowledged if stream.done() else int(_LONGEST_SECONDS * 1e9)
        self._found.latency.setdefault(ending.cause, Histogram()).record(took // 1000)

    async def _refusal(self, channel: Any, path: str, token: str) -> str:
        """The reason for which a call is refused; empty if it is answered."""
        body = self._list.SerializeToString() if path == LIST else b""
        try:
            await channel.unary_unary(path)(body, metadata=bearer(token), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            return info_of(error).reason or error.code().name
        return ""


async def sessions_end(lab: Lab) -> Figure:
    """The longest, in seconds, from the answer to what ends a session until its stream's end has come.

    With people of its own: none of them can sign in afterwards.
    """
    lab.show("signing up people whose sessions will end")
    crowd = await gather(lab.system, 1 + PEOPLE)
    admin = crowd.people[0]
    with lab.inside.database("identity_owner") as owner:
        owner.execute("UPDATE users SET administrator_since = statement_timestamp() WHERE id = %s", [admin.user_id])
    of_people = await _endings(lab, crowd, admin)
    job = Endings(lab.system.target, crowd.workspace_id, crowd.conversation_ids[0], of_people)
    found = await lab.run(job, "ending sessions")
    whole = Histogram()
    for histogram in found.latency.values():
        whole.add(histogram)
    worst = whole.quantile(1.0) / 1e6
    detail: dict[str, Any] = {
        "streams": found.streams,
        "calls_refused": found.calls_refused,
        "faults": dict(found.faults),
        "milliseconds": whole.milliseconds(),
        "by_cause": {cause: histogram.milliseconds() for cause, histogram in sorted(found.latency.items())},
    }
    return Figure(worst, GOAL_SECONDS, worst <= GOAL_SECONDS and not found.faults, detail)


async def _endings(lab: Lab, crowd: Crowd, admin: Person) -> list[list[Ending]]:
    """For each person: a session that they end from another one, one that a new password ends, and their last."""
    async with open_channels(lab.system.target)[0] as channel:

        async def of(person: Person) -> list[Ending]:
            revoked, other = [await sign_in(channel, person.email) for _ in range(2)]
            revoke = sessions.RevokeSessionRequest(session_id=revoked.session.session_id)
            change = auth.ChangePasswordRequest(current_password=PASSWORD, new_password=f"{PASSWORD} and one more")
            disable = users.DisableUserRequest(user_id=person.user_id)
            mine = person.access_token
            return [
                Ending(_REVOKE, revoke.SerializeToString(), mine, revoked.tokens.access_token),
                Ending(_CHANGE, change.SerializeToString(), mine, other.tokens.access_token),
                Ending(_DISABLE, disable.SerializeToString(), admin.access_token, mine),
            ]

        # One after the other: those who sign in at once may be told to come back later.
        return [await of(person) for person in crowd.people[1:]]
