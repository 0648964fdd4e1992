"""kill -9 of guest's real processes at each step: afterwards everything has happened once, or not at all."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import uuid_utils
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.guest.v1 import guest_service_pb2 as pb

from deploy.stack import services as stack_services
from deploy.stack.valkey import Valkey
from services.chassis import sweeps
from services.chassis.celery import make_app
from services.chassis.celery import send as send_tasks
from services.chassis.database import Database
from services.chassis.worker import perform_task
from services.guest import notices, tasks
from tests.service.test_guest_invites import House
from tests.service.test_guest_recovery import until_gone
from tests.service.test_guest_redemption import until
from tests.support.backends import Processes, wait_until
from tests.support.forks import Forks
from tests.support.guest_calls import call, revision, verdict
from tests.support.suite import Person, Suite, answered


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


@pytest.fixture(autouse=True)
def sweeps_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody is woken for, as the dead would have been, is looked for sooner than every five seconds."""
    monkeypatch.setattr(sweeps, "SWEEP_SECONDS", 0.5)


@asynccontextmanager
async def cut_server(suite: Suite, forks: Forks, step: str) -> AsyncIterator[None]:
    """guest as a process of its own that dies at a step; at the end it has died, and guest serves in here again."""
    folder = Path(tempfile.mkdtemp(prefix="guildhall-cut-"))
    stack, processes = suite.stack, Processes(forks.spawn)
    (program,) = (
        program
        for program in stack_services.programs(stack.settings, postgres=stack.postgres, valkey=stack.valkey)
        if program.name == "guest"
    )
    command = [sys.executable, "-m", "tests.support.cut_guest", step, "serve"]
    await suite.stop("guest")
    try:
        process = processes.start(replace(program, command=command, log_file=folder / "guest.log"))
        yield
        await asyncio.to_thread(process.wait, 20)
        assert process.returncode == -9, f"it was to be killed {step}"
    finally:
        await asyncio.to_thread(processes.stop)
        await suite.start("guest")
        shutil.rmtree(folder)


BEFORE_THE_DECISION = (
    "before adding the member",
    "after adding the member",
    "before deciding on the redemption",
    "after deciding on the redemption",
)
AFTER_THE_DECISION = ("before confirming the member", "after confirming the member")


async def killed_redemption(house: House, forks: Forks, step: str) -> tuple[Any, Person]:
    made, person = await house.invite(max_uses=3), house.outsider()
    async with cut_server(house.suite, forks, step):
        # The first calls may meet a channel that has not found the new server yet.
        await answered_or_cut(house, person, made.token)
    return made, person


def have_due(house: House) -> None:
    """What the dead server was delivering is its own for half a minute, and what it kept back for a call waits as long
    as that may last: those times are over now.
    """
    house.sql("UPDATE outbox SET due_at = statement_timestamp() WHERE NOT dead")
    house.suite.frames["guest"].relay.wake()


async def answered_or_cut(house: House, person: Person, token: str) -> None:
    """Redeems until the server has died."""
    for _ in range(100):
        try:
            await house.redeem(person, token)
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            if error.code() == grpc.StatusCode.UNAVAILABLE and "refused" in details.lower():
                if house.sql("SELECT 1 FROM redemptions WHERE user_id = %(id)s", id=person.user_id):
                    return
                await asyncio.sleep(0.05)
                continue
            return
    raise AssertionError("the server was never reached")


@pytest.mark.parametrize("step", BEFORE_THE_DECISION)
async def test_a_redemption_killed_before_its_decision_leaves_no_guest_and_spends_no_use(
    house: House, forks: Forks, step: str
) -> None:
    made, person = await killed_redemption(house, forks, step)
    assert house.uses(made.invite.invite_id) == 0
    house.sql(
        "UPDATE redemptions SET started_at = started_at - interval '60 seconds' WHERE user_id = %(id)s",
        id=person.user_id,
    )
    for sweep in tasks.sweeps(house.suite.frames["guest"].database).values():
        await sweep()
    states = house.sql("SELECT state FROM redemptions WHERE user_id = %(id)s", id=person.user_id)
    assert states == [("ABANDONED",)]
    with house.suite.database("membership") as database:
        pending = database.execute("SELECT id::text FROM members WHERE user_id = %s", (person.user_id,)).fetchall()
    for (member_id,) in pending:
        await until_gone(house, member_id)
    assert house.sql("SELECT 1 FROM guests WHERE user_id = %(id)s", id=person.user_id) == []
    guest = await answered(lambda: house.redeem(person, made.token))
    assert (await verdict(house, member_id=guest.member_id)).allowed
    assert house.uses(made.invite.invite_id) == 1


@pytest.mark.parametrize("step", AFTER_THE_DECISION)
async def test_a_redemption_killed_after_its_decision_is_a_whole_guest_and_one_use(
    house: House, forks: Forks, step: str
) -> None:
    made, person = await killed_redemption(house, forks, step)
    (member_id,) = house.sql("SELECT member_id::text FROM guests WHERE user_id = %(id)s", id=person.user_id)[0]

    async def is_confirmed() -> bool:
        return (await verdict(house, member_id=member_id)).allowed

    have_due(house)
    await until(is_confirmed, "the pending member is confirmed by the event")
    (found,) = await answered(lambda: house.check((member_id, house.channel_id)))
    assert (found.state, found.granted) == (pb.GUEST_STATE_ACTIVE, True)
    assert house.uses(made.invite.invite_id) == 1
    assert (await answered(lambda: house.redeem(person, made.token))).member_id == member_id
    assert house.uses(made.invite.invite_id) == 1


DEPARTURES = {
    "RemoveGuest": ("deciding on the removal", "removing the member"),
    "PromoteGuest": ("deciding on the promotion", "making them a full member"),
}
STEPS = [
    (method, step, step not in (f"before {decision}", f"after {decision}"))
    for method, (decision, following) in DEPARTURES.items()
    for step in (
        f"before {decision}",
        f"after {decision}",
        "before raising the revision",
        "after raising the revision",
        f"before {following}",
        f"after {following}",
    )
]


@pytest.mark.parametrize(("method", "step", "decided"), STEPS)
async def test_a_departure_killed_at_a_step_has_happened_wholly_or_not_at_all(
    house: House, forks: Forks, method: str, step: str, decided: bool
) -> None:
    private = await house.channel(private=True)
    _, guest = await house.guest(private)
    before = await revision(house)
    fields: dict[str, Any] = {"member_id": guest.member_id, "request_id": str(uuid_utils.uuid7())}
    if method == "PromoteGuest":
        fields["role"] = pb.PROMOTED_ROLE_MEMBER
    async with cut_server(house.suite, forks, step):
        await until_dead(house, method, fields)
    if decided:
        have_due(house)
        await until(lambda: _has_departed(house, method, guest, private), "the event has done the rest")
        await until(lambda: _is_settled(house), "the loss of sight is settled")
        assert await revision(house) > before
    else:
        (found,) = await answered(lambda: house.check((guest.member_id, private)))
        assert (found.state, found.granted) == (pb.GUEST_STATE_ACTIVE, True)
        assert await revision(house) == before
    answer = await answered(lambda: call(house, method, **fields))
    assert answer.guest.state == pb.GUEST_STATE_ENDED
    await until(lambda: _has_departed(house, method, guest, private), "it is done")
    ended = "SELECT generation, end_reason FROM guests WHERE member_id = %(id)s"
    expected = "removed" if method == "RemoveGuest" else "promoted"
    assert house.sql(ended, id=guest.member_id) == [(2, expected)]


async def until_dead(house: House, method: str, fields: dict[str, Any]) -> None:
    """Calls until the server, once reached, has died under the call."""
    for _ in range(100):
        try:
            await call(house, method, **fields)
        except grpc.aio.AioRpcError as error:
            if "refused" in (error.details() or "").lower():
                await asyncio.sleep(0.05)
                continue
            return
    raise AssertionError("the server was never reached")


async def _has_departed(house: House, method: str, guest: pb.Guest, private: str) -> bool:
    found = await verdict(house, member_id=guest.member_id, capability="conversations.create")
    if method == "RemoveGuest":
        return found.member_id == ""
    with house.suite.database("messaging") as database:
        joined = database.execute(
            "SELECT count(*) FROM participants WHERE conversation_id = %s AND member_id = %s",
            (private, guest.member_id),
        ).fetchone()
    return found.allowed and joined == (1,)


async def _is_settled(house: House) -> bool:
    house.sql(
        "UPDATE sight_losses SET created_at = created_at - interval '1 minute' "
        "WHERE workspace_id = %(id)s AND created_at > statement_timestamp() - interval '30 seconds'",
        id=house.workspace_id,
    )
    return house.sql("SELECT 1 FROM sight_losses WHERE workspace_id = %(id)s", id=house.workspace_id) == []


@pytest.mark.parametrize("step", ["before cutting times", "after cutting times", "before raising the revision"])
async def test_a_change_of_the_policy_killed_at_a_step_holds_for_everybody_in_the_end(
    house: House, forks: Forks, step: str
) -> None:
    _, guest = await house.guest()
    before = await revision(house)
    policy = pb.GuestPolicy(workspace_id=house.workspace_id, grace=Duration(seconds=3600))
    fields = {"policy": policy, "update_mask": FieldMask(paths=["grace"]), "request_id": str(uuid_utils.uuid7())}
    grace = "SELECT extract(epoch FROM grace_end_at - expire_at)::int, generation FROM guests WHERE member_id = %(id)s"
    async with cut_server(house.suite, forks, step):
        await until_dead(house, "UpdateGuestPolicy", fields)
    cut = [(3600, 2)]
    assert house.sql(grace, id=guest.member_id) == (cut if step == "before raising the revision" else [(86_400, 1)])
    have_due(house)

    async def is_whole() -> bool:
        return house.sql(grace, id=guest.member_id) == cut

    await until(is_whole, "the worker has brought it to the guest")
    await until(lambda: _is_settled(house), "the loss of sight is settled")
    assert await revision(house) > before
    assert (await answered(lambda: call(house, "UpdateGuestPolicy", **fields))).policy.etag == "2"
    assert house.sql(grace, id=guest.member_id) == cut


@dataclass
class Workshop:
    """guest's worker processes on a broker of their own, and what is handed to them."""

    suite: Suite
    valkey: Valkey
    processes: Processes
    folder: Path
    database: Database
    app: Any

    def start(self, step: str = "") -> Any:
        """A worker, perhaps one that dies at a step."""
        stack = self.suite.stack
        environment = stack_services.environment(stack.settings, "guest", postgres=stack.postgres, valkey=self.valkey)
        (program,) = (
            program
            for program in stack_services.programs(stack.settings, postgres=stack.postgres, valkey=self.valkey)
            if program.name == "guest-worker"
        )
        command = [sys.executable, "-m", "tests.support.cut_guest", step, "worker"] if step else program.command
        log_file = self.folder / f"worker-{step or 'whole'}.log"
        return self.processes.start(replace(program, command=command, environment=environment, log_file=log_file))

    async def hand_over(self, row_ids: list[str]) -> None:
        """What the relay does with rows that are due."""
        await send_tasks(self.app, perform_task("guest"), row_ids)


@pytest.fixture
async def workshop(suite: Suite, forks: Forks) -> AsyncIterator[Workshop]:
    """No guest serves meanwhile, so that nobody hands its outbox to the session's worker."""
    folder = Path(tempfile.mkdtemp(prefix="guildhall-work-"))
    valkey, processes = Valkey(socket_folder=folder, log_file=folder / "valkey.log"), Processes(forks.spawn)
    database = Database(suite.settings("guest"), pool_size=2)
    app = make_app("guest", valkey.url)
    try:
        processes.start(valkey.program())
        yield Workshop(suite, valkey, processes, folder, database, app)
    finally:
        processes.abandon(suffix="-worker")
        await asyncio.to_thread(processes.stop)
        await database.close()
        app.close()
        if "guest" not in suite.frames:
            await suite.start("guest")
        shutil.rmtree(folder)


def outbox(house: House, kind: str, subject_ids: list[str]) -> list[str]:
    rows = house.sql(
        "SELECT id::text FROM outbox WHERE kind = %(kind)s AND subject_id = ANY(%(ids)s::uuid[]) ORDER BY id",
        kind=kind,
        ids=subject_ids,
    )
    return [row_id for (row_id,) in rows]


@pytest.mark.parametrize("step", ["before materialising", "after materialising"])
async def test_a_worker_killed_in_mid_expiry_has_its_work_done_once(
    house: House, workshop: Workshop, step: str
) -> None:
    _, guest = await house.guest()
    await house.suite.stop("guest")
    house.move_times(guest.member_id, expire_in="-1 second")
    await workshop.database.transaction(tasks.enqueue_due)
    (job_id,) = house.sql("SELECT expiry_job_id::text FROM guests WHERE member_id = %(id)s", id=guest.member_id)[0]
    rows = outbox(house, tasks.EXPIRE, [job_id])
    assert len(rows) == 1
    worker = workshop.start(step)
    await workshop.hand_over(rows)
    assert await asyncio.to_thread(worker.wait, 30) == -9
    state = "SELECT state, generation FROM guests WHERE member_id = %(id)s"
    assert house.sql(state, id=guest.member_id) == [("ACTIVE", 1)]
    assert outbox(house, tasks.EXPIRE, [job_id]) == rows
    workshop.start()
    await workshop.hand_over([*rows, *rows])
    await asyncio.to_thread(wait_until, lambda: outbox(house, tasks.EXPIRE, [job_id]) == [], "the row is done")
    assert house.sql(state, id=guest.member_id) == [("LOCKED", 1)]


@pytest.fixture
def mails(suite: Suite) -> Callable[[str], dict[str, int]]:
    """How many mails of guest's somebody has, by subject."""

    def count(address: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for message in suite.mail_folder.to(address):
            if "House" in message["Subject"]:
                found[message["Subject"]] = found.get(message["Subject"], 0) + 1
        return found

    return count


@pytest.mark.parametrize("step", ["before sending", "after sending", "before marking as sent", "after marking as sent"])
async def test_a_worker_killed_in_mid_notice_has_each_mail_sent_once(
    house: House, workshop: Workshop, mails: Any, step: str
) -> None:
    person = await house.suite.person("Gus")
    guest = await house.redeem(person, (await house.invite()).token)
    await house.suite.stop("guest")
    house.move_times(guest.member_id, expire_in="-1 second")
    await workshop.database.transaction(lambda tx: notices.plan(tx, [guest.member_id]))
    await workshop.database.transaction(notices.queue_due)
    ids = [
        notice_id
        for (notice_id,) in house.sql(
            "SELECT id::text FROM guest_notices WHERE member_id = %(id)s AND queued_at IS NOT NULL",
            id=guest.member_id,
        )
    ]
    rows = outbox(house, notices.MAIL, ids)
    assert len(rows) == len(ids) == 2
    worker = workshop.start(step)
    await workshop.hand_over(rows)
    assert await asyncio.to_thread(worker.wait, 30) == -9
    assert outbox(house, notices.MAIL, ids) == rows
    workshop.start()
    await workshop.hand_over([*rows, *rows])
    await asyncio.to_thread(wait_until, lambda: outbox(house, notices.MAIL, ids) == [], "the rows are done")
    assert mails(person.email) == {"You can only read in House from now on": 1}
    assert mails(house.admin.email) == {"Gus can only read in House from now on": 1}
    sent = "SELECT count(*) FROM guest_notices WHERE member_id = %(id)s AND sent_at IS NOT NULL"
    assert house.sql(sent, id=guest.member_id) == [(2,)]
