"""Limits of guessing and of mails: whom they stop, whom they do not, and what is left of them without Valkey."""

import asyncio
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from guildhall.identity.v1 import auth_service_pb2 as pb
from guildhall.identity.v1 import auth_service_pb2_grpc
from redis import Redis

from deploy.stack.valkey import Valkey
from services.chassis.call import CURRENT, Call
from services.chassis.secret import SecretKey, token_hash
from services.identity import verification
from services.identity.attempts import TOKENS, Allowance, Attempts
from services.identity.guesses import MOST_OF_A_NETWORK
from tests.support.backends import Processes
from tests.support.identities import execute, from_address, identity, kinds_of, new_address
from tests.support.suite import PASSWORD, Person, Refusal, Suite, refusal_of, refused

HERE, THERE = from_address("203.0.113.7"), from_address("198.51.100.7")
WRONG = "not the password"


@pytest.fixture
def auth(suite: Suite) -> Any:
    return suite.stub(auth_service_pb2_grpc.AuthServiceStub)


def sign_in(auth: Any, address: str, password: str = PASSWORD, metadata: Any = HERE) -> Any:
    return auth.SignIn(pb.SignInRequest(email=address, password=password), timeout=10, metadata=metadata)


async def guess(auth: Any, address: str, times: int) -> list[str]:
    return [(await refused(sign_in(auth, address, WRONG))).reason for _ in range(times)]


def retry_seconds(refusal: Refusal) -> int:
    """What the refusal's RetryInfo says; fails if it has none."""
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status_pb2.Status.FromString(refusal.raw).details)
    return retry.retry_delay.seconds


async def test_after_five_wrong_passwords_the_right_one_is_refused_there_and_not_elsewhere(
    suite: Suite, auth: Any
) -> None:
    person = await suite.person()
    assert await guess(auth, person.email, 6) == ["INVALID_CREDENTIALS"] * 5 + ["SIGN_IN_LIMITED"]
    limited = await refused(sign_in(auth, person.email))
    assert (limited.code, limited.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SIGN_IN_LIMITED")
    assert 25 <= retry_seconds(limited) <= 32
    neighbour = from_address("203.0.113.250")
    assert (await refused(sign_in(auth, person.email, metadata=neighbour))).reason == "SIGN_IN_LIMITED"
    assert (await sign_in(auth, person.email, metadata=THERE)).user.user_id == person.user_id
    another = await suite.person()
    assert (await sign_in(auth, another.email)).user.user_id == another.user_id


async def test_known_and_unknown_addresses_are_limited_alike(suite: Suite, auth: Any) -> None:
    person, unknown = await suite.person(), new_address()
    for _ in range(5):
        for address in (person.email, unknown):
            assert (await refused(sign_in(auth, address, WRONG))).reason == "INVALID_CREDENTIALS"
    # The whole seconds that are left are part of the bytes; they may change between two calls.
    for _ in range(3):
        refusals = [await refused(sign_in(auth, address, WRONG)) for address in (person.email, unknown)]
        if retry_seconds(refusals[0]) == retry_seconds(refusals[1]):
            break
    assert refusals[0] == refusals[1]
    assert refusals[0].reason == "SIGN_IN_LIMITED"


async def test_a_right_password_clears_the_count(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    for _ in range(3):
        assert await guess(auth, person.email, 4) == ["INVALID_CREDENTIALS"] * 4
        assert (await sign_in(auth, person.email)).user.user_id == person.user_id


async def test_the_password_of_a_sign_up_of_ones_own_clears_nothing(suite: Suite, auth: Any) -> None:
    victim, own_password = await suite.person(), "a guesser's own password"
    await auth.SignUp(pb.SignUpRequest(email=victim.email, password=own_password, name="Eve"), timeout=10)
    await guess(auth, victim.email, 4)
    assert (await refused(sign_in(auth, victim.email, own_password))).reason == "EMAIL_UNVERIFIED"
    assert await guess(auth, victim.email, 2) == ["INVALID_CREDENTIALS", "SIGN_IN_LIMITED"]
    assert (await refused(sign_in(auth, victim.email, own_password))).reason == "SIGN_IN_LIMITED"


async def test_many_guesses_at_once_get_no_more_answers_than_one_by_one(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    passwords = [f"{WRONG} {number}" for number in range(MOST_OF_A_NETWORK)]
    outcomes = await asyncio.gather(*(refused(sign_in(auth, person.email, password)) for password in passwords))
    reasons = sorted(outcome.reason for outcome in outcomes)
    assert reasons == ["INVALID_CREDENTIALS"] * 5 + ["SIGN_IN_LIMITED"] * (MOST_OF_A_NETWORK - 5)


async def test_a_flood_from_one_network_is_overloaded_there_and_keeps_nobody_else_out(suite: Suite, auth: Any) -> None:
    person, crowd = await suite.person(), from_address("192.0.2.91")
    flood = [asyncio.ensure_future(refused(sign_in(auth, new_address(), WRONG, crowd))) for _ in range(60)]
    await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    assert (await sign_in(auth, person.email, metadata=THERE)).user.user_id == person.user_id
    assert {refusal.reason for refusal in await asyncio.gather(*flood)} == {"INVALID_CREDENTIALS", "OVERLOADED"}


async def test_a_flood_of_sign_ups_from_one_network_is_overloaded_there_and_keeps_nobody_else_out(suite: Suite) -> None:
    crowd = from_address("192.0.2.92")
    async with identity(suite, mails_per_network=1000) as (_, auth):
        flood = [asyncio.ensure_future(outcome(ask_mail(auth, "SignUp", new_address(), crowd))) for _ in range(30)]
        await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        assert await outcome(ask_mail(auth, "SignUp", new_address(), THERE)) == "OK"
        reasons = Counter(await asyncio.gather(*flood))
    assert set(reasons) == {"OK", "OVERLOADED"}
    assert reasons["OK"] >= MOST_OF_A_NETWORK


async def test_a_flood_of_resets_from_one_network_is_overloaded_there_and_keeps_nobody_else_out(
    suite: Suite, auth: Any
) -> None:
    frame = suite.frames["identity"]

    async def reset(person: Person, metadata: Any) -> str:
        token_id = str(uuid.uuid4())
        token = verification.token_of(frame.secret, token_id)
        statement = """
            INSERT INTO verification_tokens (id, user_id, purpose, token_hash, expire_at)
            VALUES (%s, %s, 'reset_password', %s, statement_timestamp() + interval '1 hour')
        """
        execute(suite, statement, token_id, person.user_id, token_hash(token))
        request = pb.ResetPasswordRequest(token=token, new_password=f"{PASSWORD} {token_id}")
        return await outcome(auth.ResetPassword(request, timeout=10, metadata=metadata))

    people = [await suite.person() for _ in range(6)]
    crowd = from_address("192.0.2.93")
    flood = [asyncio.ensure_future(reset(person, crowd)) for person in people[1:] for _ in range(6)]
    await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    assert await reset(people[0], THERE) == "OK"
    reasons = Counter(await asyncio.gather(*flood))
    assert set(reasons) <= {"OK", "TOKEN_INVALID", "OVERLOADED"}
    assert reasons["OVERLOADED"] > 0


async def outcome(call: Any) -> str:
    """OK, or the reason of the refusal."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason
    return "OK"


async def test_wrong_present_passwords_count_as_well(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    metadata = (*person.metadata, *HERE)

    async def change(current: str) -> str:
        request = pb.ChangePasswordRequest(current_password=current, new_password="a password of another kind")
        return (await refused(auth.ChangePassword(request, timeout=10, metadata=metadata))).reason

    assert [await change(WRONG) for _ in range(5)] == ["INVALID_CREDENTIALS"] * 5
    assert await change(PASSWORD) == "SIGN_IN_LIMITED"
    assert (await refused(sign_in(auth, person.email))).reason == "SIGN_IN_LIMITED"


async def test_failures_are_in_the_security_log_and_each_delay_once(suite: Suite, auth: Any) -> None:
    person, unknown = await suite.person(), new_address()
    before = len(kinds_of(suite, person.user_id))
    for address in (person.email, unknown):
        await guess(auth, address, 8)
    assert kinds_of(suite, person.user_id)[before:] == ["sign_in_failed"] * 5 + ["sign_in_limited"]
    query = """SELECT kind, client_address FROM security_events
        WHERE id > (SELECT id FROM security_events WHERE user_id = %s ORDER BY id DESC LIMIT 1) AND user_id IS NULL
        ORDER BY id"""
    assert execute(suite, query, person.user_id)[:6] == [("sign_in_failed", "203.0.113.7")] * 5 + [
        ("sign_in_limited", "203.0.113.7")
    ]


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[tuple[Valkey, subprocess.Popen[bytes]]]:
    """A Valkey that this test may stop. Its folder's name is short: a socket's path may have 107 bytes."""
    processes = Processes()
    valkey = Valkey(socket_folder=tmp_path, log_file=tmp_path / "valkey.log")
    try:
        yield valkey, processes.start(valkey.program())
    finally:
        processes.stop()


@pytest.fixture
async def attempts(own_valkey: tuple[Valkey, subprocess.Popen[bytes]]) -> Any:
    """Limits with delays so short that they can be waited for, asked from one network."""
    CURRENT.set(Call("rpc", "request", "gateway", 1e12, client_address="203.0.113.7"))
    quick = Allowance(free=4, first_ms=100, longest_ms=300)
    made = Attempts(
        own_valkey[0].url,
        SecretKey(b"k" * 32),
        mails_per_address=4,
        mails_per_network=100,
        passwords=quick,
    )
    yield made
    await made.close()


async def until_allowed(attempts: Attempts, account: str) -> None:
    while await attempts.of_password(account, "look"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def delay_ms(attempts: Attempts, account: str, valkey: Valkey) -> int:
    """How long the delay is that the next wrong password brings."""
    assert await attempts.of_password(account, "wrong") is None
    with Redis.from_url(valkey.url) as client:
        [key] = client.keys("identity.attempts.*")
        seconds, micros = client.time()
        return round((int(client.hget(key, "until")) - seconds * 1000 - micros / 1000) / 100) * 100


async def test_the_delay_grows_to_its_longest_and_ends_by_itself(
    attempts: Attempts, own_valkey: tuple[Valkey, subprocess.Popen[bytes]]
) -> None:
    for _ in range(3):
        assert await attempts.of_password("a", "wrong") is None
    delays = []
    for _ in range(4):
        delays.append(await delay_ms(attempts, "a", own_valkey[0]))
        assert await attempts.of_password("a", "look")
        await until_allowed(attempts, "a")
    assert delays == [100, 200, 300, 300]
    assert await attempts.of_password("a", "right") is None
    assert await attempts.of_password("a", "wrong") is None
    assert await attempts.of_password("a", "look") is None


async def test_counts_end_by_themselves_and_their_keys_tell_nothing(
    attempts: Attempts, own_valkey: tuple[Valkey, subprocess.Popen[bytes]]
) -> None:
    account = new_address()
    await attempts.of_password(account, "wrong")
    await attempts.may_mail(account)
    with Redis.from_url(own_valkey[0].url) as client:
        keys = client.keys("*")
        assert len(keys) == 4
        for key in keys:
            assert 0 < client.pttl(key) <= 86_400_000
            kept = client.hgetall(key) if client.type(key) == b"hash" else client.get(key)
            for secret in (account, "someone", "203.0.113"):
                assert secret not in f"{key!r} {kept!r}"


@pytest.mark.parametrize("end", [signal.SIGSTOP, signal.SIGKILL])
async def test_without_valkey_less_is_allowed_and_with_it_again_as_much_as_before(
    attempts: Attempts, own_valkey: tuple[Valkey, subprocess.Popen[bytes]], end: signal.Signals
) -> None:
    valkey, process = own_valkey
    assert [await attempts.of_password("a", "wrong") for _ in range(3)] == [None] * 3
    process.send_signal(end)
    async with asyncio.timeout(2):
        assert [await attempts.of_password("a", "wrong") for _ in range(2)] == [None] * 2
        assert await attempts.of_password("a", "look")
        assert await attempts.of_password("b", "look") is None
        assert [await attempts.may_mail("a") for _ in range(3)] == [True, True, False]
        assert await attempts.may_mail("b")
        # Beyond the first delay: then one more brings the next.
        await until_allowed(attempts, "a")
        assert await attempts.of_password("a", "right") is None
    if end == signal.SIGSTOP:
        process.send_signal(signal.SIGCONT)
        with Redis.from_url(valkey.url) as client:
            # What was on its way when it stopped may have been counted as well.
            [key] = client.keys("*")
            while int(client.hget(key, "failures")) < 5:
                await attempts.of_password("a", "wrong")
                await asyncio.sleep(0.01)
        assert await attempts.of_password("a", "look")


async def test_sign_in_is_limited_sooner_in_a_process_without_valkey(suite: Suite, tmp_path: Path) -> None:
    person = await suite.person()
    async with identity(suite, redis_url=f"unix://{tmp_path}/none.sock") as (_, auth):
        assert (await sign_in(auth, person.email)).user.user_id == person.user_id
        assert await guess(auth, person.email, 4) == ["INVALID_CREDENTIALS"] * 3 + ["SIGN_IN_LIMITED"]
        assert (await refused(sign_in(auth, person.email))).reason == "SIGN_IN_LIMITED"
        assert (await sign_in(auth, person.email, metadata=THERE)).user.user_id == person.user_id


MAILING = ["SignUp", "StartEmailSignIn", "ResendVerification", "RequestPasswordReset"]


def ask_mail(auth: Any, rpc: str, address: str, metadata: Any = HERE) -> Any:
    fields = {"password": PASSWORD, "name": "Ada"} if rpc == "SignUp" else {}
    request = getattr(pb, f"{rpc}Request")(email=address, **fields)
    return getattr(auth, rpc)(request, timeout=10, metadata=metadata)


def count_tokens(suite: Suite) -> int:
    [(count,)] = execute(suite, "SELECT count(*) FROM verification_tokens")
    return int(count)


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_network_sends_an_address_five_mails_an_hour_and_the_sixth_answer_is_the_same(
    suite: Suite, auth: Any, is_known: bool
) -> None:
    address = (await suite.person()).email if is_known else new_address()
    before, answers, counts = count_tokens(suite), set(), []
    for number in range(5):
        answers.add((await ask_mail(auth, MAILING[number % 4], address)).SerializeToString())
    counts.append(count_tokens(suite) - before)
    for rpc in MAILING:
        answers.add((await ask_mail(auth, rpc, address)).SerializeToString())
    counts.append(count_tokens(suite) - before)
    assert answers == {b""}
    assert counts == [5, 5]
    await ask_mail(auth, "SignUp", new_address())
    await ask_mail(auth, "StartEmailSignIn", address, THERE)
    assert count_tokens(suite) - before == 7


async def test_all_networks_together_send_an_address_ten_times_what_one_may(suite: Suite) -> None:
    address = new_address()
    async with identity(suite, mails_per_address=1) as (_, auth):
        before = count_tokens(suite)
        for number in range(12):
            await ask_mail(auth, "StartEmailSignIn", address, from_address(f"198.18.{number}.1"))
        assert count_tokens(suite) - before == 10
        await ask_mail(auth, "StartEmailSignIn", new_address(), from_address("198.18.12.1"))
        assert count_tokens(suite) - before == 11


async def test_the_networks_of_strangers_cannot_use_up_the_mails_of_one_that_the_owner_has_signed_in_from(
    suite: Suite,
) -> None:
    person, home, cafe = await suite.person(), from_address("198.19.0.7"), from_address("198.19.1.7")
    async with identity(suite, mails_per_address=1) as (_, auth):
        await sign_in(auth, person.email, metadata=home)
        for number in range(10):
            await ask_mail(auth, "RequestPasswordReset", person.email, from_address(f"198.18.{number}.1"))
        before = count_tokens(suite)
        await ask_mail(auth, "RequestPasswordReset", person.email, cafe)
        assert count_tokens(suite) - before == 0
        for neighbour in ("198.19.0.7", "198.19.0.99"):
            await ask_mail(auth, "StartEmailSignIn", person.email, from_address(neighbour))
        assert count_tokens(suite) - before == 1
        # Nobody else's address has a way round from there.
        other = (await suite.person()).email
        for number in range(10):
            await ask_mail(auth, "RequestPasswordReset", other, from_address(f"198.18.{100 + number}.1"))
        before = count_tokens(suite)
        await ask_mail(auth, "RequestPasswordReset", other, home)
        assert count_tokens(suite) - before == 0


async def test_a_network_asks_for_so_many_mails_an_hour_and_this_machine_for_any(suite: Suite) -> None:
    network = f"2001:db8:{uuid.uuid4().hex[:4]}::1"
    async with identity(suite, mails_per_network=3) as (_, auth):
        before = count_tokens(suite)
        for _ in range(5):
            await ask_mail(auth, "SignUp", new_address(), from_address(network))
        assert count_tokens(suite) - before == 3
        for number in range(5):
            await ask_mail(auth, "SignUp", new_address(), from_address("127.0.0.1") if number % 2 else ())
        await ask_mail(auth, "SignUp", new_address(), from_address(f"2001:db9:{uuid.uuid4().hex[:4]}::1"))
        assert count_tokens(suite) - before == 9


async def test_a_flood_of_wrong_tokens_is_limited_by_network(suite: Suite, auth: Any) -> None:
    person, network = await suite.person(), from_address(f"2001:db8:{uuid.uuid4().hex[:4]}::1")

    async def present(rpc: str, metadata: Any) -> Refusal:
        fields = {"new_password": PASSWORD} if rpc == "ResetPassword" else {}
        request = getattr(pb, f"{rpc}Request")(token="ghv_none", **fields)
        return await refused(getattr(auth, rpc)(request, timeout=10, metadata=metadata))

    for number in range(TOKENS.free):
        rpc = ["VerifyEmail", "CompleteEmailSignIn", "ResetPassword"][number % 3]
        assert (await present(rpc, network)).reason == "TOKEN_INVALID"
    for rpc in ("VerifyEmail", "CompleteEmailSignIn", "ResetPassword"):
        limited = await present(rpc, network)
        assert (limited.code, limited.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
        assert limited.metadata == {"limit": "wrong_tokens", "most": "100"}
        assert retry_seconds(limited) <= 32
        assert (await present(rpc, from_address("127.0.0.1"))).reason == "TOKEN_INVALID"
        assert (await present(rpc, THERE)).reason == "TOKEN_INVALID"
    assert (await sign_in(auth, person.email, metadata=network)).user.user_id == person.user_id
