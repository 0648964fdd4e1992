"""F4: kill -9 of Celery workers in the middle of their tasks, while two beats have everything swept.

The tasks are mails of invitations and sign-ups, and what the clock brings to guests: their lock, and a notice of
it to each and to their sponsor. Control: a worker that forgets a task's row when it begins it.
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from email import policy
from email.parser import BytesHeaderParser
from pathlib import Path

from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import invitation_service_pb2_grpc as invitations_rpc
from guildhall.membership.v1 import member_service_pb2 as members

from tests.faults.bench import WRITERS, Bench, Result
from tests.faults.people import CALL_SECONDS, PASSWORD, Person, join_by_link, make_channels, make_guest_link

MOST_SECONDS = 90.0
_GIVE_UP_SECONDS = 120.0
_INVITED, _SIGNED_UP = 16, 6
_GUESTS = 2
_KILLED = ("membership", "identity", "guest")
_KILLS = 2
_SECOND_BEAT = "beat-2"
_LOCK = """
    UPDATE guest.guests SET expire_at = statement_timestamp(),
        grace_end_at = statement_timestamp() + interval '1 day'
    WHERE member_id = ANY(%s::uuid[])
"""
_PLANNED = """
    UPDATE guest.guest_notices n SET due_at = g.expire_at FROM guest.guests g
    WHERE g.member_id = n.member_id AND n.kind = 'locked' AND g.member_id = ANY(%s::uuid[])
"""
_LOCKED = "SELECT count(*) FROM guest.guests WHERE state = 'LOCKED' AND member_id = ANY(%s::uuid[])"
_UNDONE = " UNION ALL ".join(
    f"SELECT count(*) FROM {service}.outbox WHERE target = 'worker' AND created_at <= statement_timestamp()"
    for service in _KILLED
)


class Mails:
    """The mails that were written since it was made, counted by address and subject."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parse = BytesHeaderParser(policy=policy.default).parsebytes
        self._known: dict[str, tuple[str, str] | None] = dict.fromkeys(path.name for path in folder.glob("*.eml"))

    def counted(self, addresses: Collection[str]) -> Counter[tuple[str, str]]:
        """Those to some addresses."""
        for path in self._folder.glob("*.eml"):
            if path.name not in self._known:
                headers = self._parse(path.read_bytes())
                self._known[path.name] = str(headers["To"]), str(headers["Subject"])
        return Counter(mail for mail in self._known.values() if mail is not None and mail[0] in addresses)


async def run(bench: Bench) -> Result:
    """Every mail is written once, every guest is locked and told once."""
    seconds: list[float] = []
    wrong: list[str] = []
    kills = mails = 0
    beat = bench.cluster.program("beat")
    await bench.cluster.add(replace(beat, name=_SECOND_BEAT, log_file=beat.log_file.with_name("beat-2.log")))
    try:
        for number in range(bench.rounds):
            bench.tell(f"round {number + 1} of {bench.rounds}, up to {MOST_SECONDS:.0f} s")
            round_ = await _Round.begin(bench, "haste")
            kills += await round_.kill()
            seconds.append(await round_.done(_GIVE_UP_SECONDS))
            mails += round_.written
            wrong += round_.wrong()
        bench.tell("control: a row is forgotten when its task begins")
        round_ = await _Round.begin(bench, "row_until_done")
        await round_.kill()
        await round_.empty()
        missing = round_.missing()
    finally:
        await bench.cluster.remove(_SECOND_BEAT)
        for service in _KILLED:
            await bench.cluster.run_as(service, worker=True)
    return Result(
        rounds=bench.rounds,
        holds=max(seconds) <= MOST_SECONDS and not wrong and kills > 0,
        control_failed=missing > 0,
        detail={
            "workers_killed": kills,
            "effects": mails,
            "wrong": wrong[:12],
            "done_seconds_worst": round(max(seconds), 1),
            "done_seconds_goal": MOST_SECONDS,
            "control": {"protection_off": "a row stays until its task is done", "mails_that_never_came": missing},
        },
    )


class _Round:
    """Tasks for three workers, and what must come of them."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._mails = Mails(bench.cluster.settings.layout.mail)
        self._guest_ids: list[str] = []
        self._addresses: set[str] = set()
        self._expected = 0
        self._locked = 0
        self._undone = 0
        self._begun = 0.0

    @classmethod
    async def begin(cls, bench: Bench, without: str) -> "_Round":
        """Everything is asked for, of workers that have one protection less, or take their time."""
        await bench.people.take(WRITERS + _GUESTS)
        workspace_id, team = await bench.home()
        guests = (await bench.people.take(WRITERS + _GUESTS))[WRITERS:]
        (channel_id,) = await make_channels(team[0], workspace_id, 1)
        link = await make_guest_link(team[0], workspace_id, channel_id)
        guest_ids = [await join_by_link(guest, link) for guest in guests]
        for service in _KILLED:
            await bench.cluster.run_as(service, launcher=("--without", without), worker=True)
        self = cls(bench)
        self._guest_ids = guest_ids
        self._begun = time.monotonic()
        invited = await self._invite(team[0], workspace_id)
        signed_up = await self._sign_up()
        async with await bench.cluster.admin() as admin:
            await admin.execute(_LOCK, [guest_ids])
            await admin.execute(_PLANNED, [guest_ids])
        self._addresses = {*invited, *signed_up, team[0].email, *(guest.email for guest in guests)}
        # A lock is told to the guest and to the sponsor, who is told of each of theirs.
        self._expected = len(invited) + len(signed_up) + 2 * len(guests)
        return self

    async def _invite(self, owner: Person, workspace_id: str) -> list[str]:
        addresses = [f"invited-{uuid.uuid4().hex}@example.com" for _ in range(_INVITED)]
        for address in addresses:
            request = invitations.CreateInvitationRequest(
                workspace_id=workspace_id, email=address, role=members.ROLE_MEMBER, request_id=str(uuid.uuid4())
            )
            await owner.call(invitations_rpc.InvitationServiceStub, "CreateInvitation", request)
        return addresses

    async def _sign_up(self) -> list[str]:
        addresses = [f"new-{uuid.uuid4().hex}@example.com" for _ in range(_SIGNED_UP)]
        async with self._bench.people.open_channel() as channel:
            stub = auth_rpc.AuthServiceStub(channel)
            for address in addresses:
                request = auth.SignUpRequest(email=address, password=PASSWORD, name="New")
                await stub.SignUp(request, timeout=CALL_SECONDS)
        return addresses

    async def kill(self) -> int:
        """Kills each worker as soon as it is seen to be at something, more than once; how often."""
        kills = 0
        for _ in range(_KILLS):
            for service in _KILLED:
                if await self._is_at_something(service):
                    self._bench.cluster.kill(f"{service}-worker")
                    kills += 1
            await asyncio.sleep(2)
        await self._bench.cluster.ready(*(f"{service}-worker" for service in _KILLED))
        return kills

    async def _is_at_something(self, service: str) -> bool:
        """Waits until a task of the worker's has begun: its lease is longer than when it was handed over."""
        begun = f"SELECT count(*) FROM {service}.outbox WHERE target = 'worker' AND due_at > statement_timestamp()"
        deadline = time.monotonic() + (1 if service == "guest" else 10)
        before = self.written
        async with await self._bench.cluster.admin() as admin:
            while time.monotonic() < deadline:
                row = await (await admin.execute(begun.encode())).fetchone()
                if row is not None and row[0] and (self.written > before or service == "guest"):
                    return True
                await asyncio.sleep(0.05)
        return False

    @property
    def written(self) -> int:
        """How many mails there are."""
        return sum(self._mails.counted(self._addresses).values())

    async def done(self, most_seconds: float) -> float:
        """Waits until everything has come and nothing is left to do; how long it took from the beginning on."""
        while time.monotonic() < self._begun + most_seconds:
            await self._look()
            if self.written >= self._expected and self._locked == len(self._guest_ids) and not self._undone:
                break
            await asyncio.sleep(0.2)
        return time.monotonic() - self._begun

    async def empty(self) -> None:
        """Waits until nothing is left to do."""
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        await self._look()
        while self._undone and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            await self._look()

    async def _look(self) -> None:
        async with await self._bench.cluster.admin() as admin:
            row = await (await admin.execute(_LOCKED, [self._guest_ids])).fetchone()
            self._locked = row[0] if row is not None else 0
            self._undone = sum(count for (count,) in await (await admin.execute(_UNDONE.encode())).fetchall())

    def wrong(self) -> list[str]:
        """What did not come to pass, or did so twice."""
        found = []
        if self._locked != len(self._guest_ids):
            found.append(f"{len(self._guest_ids) - self._locked} guests are not locked")
        if self.written != self._expected:
            found.append(f"{self.written} mails, not {self._expected}")
        return found

    def missing(self) -> int:
        """Mails of invitations and sign-ups that have not come: what the beats bring may still be on its way."""
        return max(0, self._expected - 2 * len(self._guest_ids) - self.written)
