"""A3: how long identity takes for addresses that somebody has and for those that nobody has. It must not tell.

The negative control is a second identity that verifies no dummy where there is no password: the same measurement has to
find it out.
"""

import asyncio
import dataclasses
import random
import statistics
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from argon2 import PasswordHasher
from guildhall.identity.v1 import auth_service_pb2 as auth

from deploy.stack import health, processes, services
from deploy.stack.settings import HOST
from tests.load.generator import Control
from tests.load.lab import Figure, Lab
from tests.load.wire import Tls, close_channels, now, open_channels

ADDRESSES = 200
"""Of each kind, each asked for once by each RPC: the limits of guesses and of mails are per address."""
GOAL = 1.1
RPCS = ("SignIn", "SignUp", "RequestPasswordReset", "StartEmailSignIn")
_PATH = "/guildhall.identity.v1.AuthService/"
_WARM = 10
_CALL_SECONDS = 10.0
_READY_SECONDS = 30

_ADD_USERS = """
    INSERT INTO users (id, email, normalized_email, name, password_hash, email_verified_at)
    SELECT uuidv7(), address, address, 'Load', %(password_hash)s, statement_timestamp() - interval '1 day'
    FROM unnest(%(addresses)s::text[]) AS address
"""


@dataclasses.dataclass(frozen=True)
class Alternating:
    """One caller, one call at a time, each pair in an order that is drawn: what a call leaves behind for the next one
    (a mail to write) falls on both kinds alike."""

    target: str
    tls: Tls
    path: str
    known: Sequence[bytes]
    unknown: Sequence[bytes]

    async def run(self, control: Control) -> tuple[float, float]:
        """The medians for known and for unknown, in milliseconds. Refusals are answers like others."""
        drawn = random.Random(1)
        took: dict[str, list[int]] = {"known": [], "unknown": []}
        channels = open_channels(self.target, 1, self.tls)
        try:
            rpc: Any = channels[0].unary_unary(self.path)
            for number, bodies in enumerate(zip(self.known, self.unknown, strict=True)):
                pair = list(zip(took, bodies, strict=True))
                drawn.shuffle(pair)
                for kind, body in pair:
                    took[kind].append(await _microseconds(rpc, body))
                if number % 10 == 0:
                    control.tell(number)
        finally:
            await close_channels(channels)
        known, unknown = (statistics.median(found[_WARM:]) / 1000 for found in took.values())
        return known, unknown


async def _microseconds(rpc: Any, body: bytes) -> int:
    started = now()
    try:
        await rpc(body, timeout=_CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            raise
    return (now() - started) // 1000


async def a3(lab: Lab) -> Figure:
    """The worst ratio of the medians of known and unknown, and what it is without the dummy verification."""
    known = _add_people(lab)
    medians = {rpc: await _measure(lab, rpc, known) for rpc in RPCS}
    async with _without_dummy(lab) as target:
        control = await _measure(lab, "SignIn", known, target)
    ratios = {rpc: _ratio(*found) for rpc, found in medians.items()}
    worst = max(ratios.values())
    detail: dict[str, Any] = {
        "ratios": {rpc: round(ratio, 3) for rpc, ratio in ratios.items()},
        "milliseconds_known_unknown": {rpc: [round(ms, 2) for ms in found] for rpc, found in medians.items()},
        "without_dummy": round(_ratio(*control), 3),
    }
    return Figure(worst, GOAL, worst <= GOAL < _ratio(*control), detail)


def _ratio(known: float, unknown: float) -> float:
    """Of the slower to the faster."""
    return max(known, unknown) / min(known, unknown)


def _add_people(lab: Lab) -> list[str]:
    """Users as they are after signing up and proving their addresses."""
    addresses = _new_addresses()
    # As services/identity/passwords.py hashes; a hash of other parameters would take another time.
    password_hash = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash("a password for one run")
    with lab.inside.database("identity_owner") as owner:
        owner.execute(_ADD_USERS, {"addresses": addresses, "password_hash": password_hash})
    return addresses


def _new_addresses() -> list[str]:
    run = uuid.uuid4().hex[:12]
    return [f"a3-{run}-{number}@example.com" for number in range(ADDRESSES + _WARM)]


async def _measure(lab: Lab, rpc: str, known: Sequence[str], target: str = "") -> tuple[float, float]:
    fields = {
        "SignIn": {"password": "not the password"},
        "SignUp": {"password": "a password for one run", "name": "Load"},
    }.get(rpc, {})
    # Directly, as the gateway calls it: a call without a client's address is under no network's limit.
    address, tls = lab.inside.peer("identity", "gateway")
    bodies = [
        [getattr(auth, f"{rpc}Request")(email=email, **fields).SerializeToString() for email in emails]
        for emails in (known, _new_addresses())
    ]
    job = Alternating(target or address, tls, _PATH + rpc, *bodies)
    return await lab.run(job, f"{rpc}{', without the dummy' if target else ''}")


@asynccontextmanager
async def _without_dummy(lab: Lab) -> AsyncIterator[str]:
    """The address of an identity that refuses at once where there is no password to compare with."""
    stack = lab.inside.stack
    replica = stack.settings.replicas
    environment = services.environment(
        stack.settings, "identity", postgres=stack.postgres, valkey=stack.valkey, replica=replica
    )
    program = processes.Program(
        name="identity-without-dummy",
        command=[sys.executable, "-m", "tests.faults.launch", "identity", "--without", "dummy_verification", "serve"],
        log_file=stack.settings.layout.logs / "identity-without-dummy.log",
        environment=environment,
    )
    process = processes.spawn(program)
    probe = health.probe(stack.settings.ports.health("identity", replica))
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while not await asyncio.to_thread(probe):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        yield f"{HOST}:{stack.settings.ports.service('identity', replica)}"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, _READY_SECONDS)
