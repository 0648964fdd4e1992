"""Passwords: reset by mail, changed by who is signed in, taken over from another system."""

import asyncio
import base64
import hashlib
import uuid
from collections import Counter
from typing import Any

import bcrypt
import grpc
import pytest
from argon2 import PasswordHasher
from argon2.low_level import Type
from guildhall.identity.v1 import auth_service_pb2 as pb
from guildhall.identity.v1 import auth_service_pb2_grpc, user_service_pb2, user_service_pb2_grpc
from guildhall.messaging.v1 import event_service_pb2

from services.identity.passwords import THREADS, WAITING
from tests.service.test_messaging_conversations import Room
from tests.service.test_messaging_streams import listening
from tests.support.deliveries import until
from tests.support.identities import execute, from_address, kinds_of, new_address
from tests.support.suite import PASSWORD, Person, Suite, refusal_of, refused

OTHER_PASSWORD = "another long password"


@pytest.fixture
def auth(suite: Suite) -> Any:
    return suite.stub(auth_service_pb2_grpc.AuthServiceStub)


async def sign_in(auth: Any, address: str, password: str = PASSWORD) -> Any:
    return await auth.SignIn(pb.SignInRequest(email=address, password=password), timeout=10)


async def reset_token(suite: Suite, auth: Any, address: str, *, mails: int = 2) -> str:
    await auth.RequestPasswordReset(pb.RequestPasswordResetRequest(email=address), timeout=10)
    return await suite.mailed_token(address, count=mails)


def reset(auth: Any, token: str, password: str = OTHER_PASSWORD, **fields: str) -> Any:
    return auth.ResetPassword(pb.ResetPasswordRequest(token=token, new_password=password, **fields), timeout=10)


def change(auth: Any, person: Person, current: str = PASSWORD, new: str = OTHER_PASSWORD, **fields: str) -> Any:
    return person.call(
        auth.ChangePassword, pb.ChangePasswordRequest(current_password=current, new_password=new, **fields)
    )


def me(suite: Suite, person: Person) -> Any:
    return person.call(suite.stub(user_service_pb2_grpc.UserServiceStub).GetUser, user_service_pb2.GetUserRequest())


async def test_a_reset_sets_the_password_and_ends_every_session(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    token = await reset_token(suite, auth, person.email)
    assert f"/reset-password?token={token}" in (await suite.mails(person.email, count=2))[1]
    assert (await me(suite, person)).user.user_id == person.user_id
    await reset(auth, token)
    assert (await refused(me(suite, person))).reason == "SESSION_ENDED"
    assert (await refused(sign_in(auth, person.email))).reason == "INVALID_CREDENTIALS"
    assert (await sign_in(auth, person.email, OTHER_PASSWORD)).user.user_id == person.user_id
    assert "password of your account was changed" in (await suite.mails(person.email, count=3))[2]
    query = "SELECT DISTINCT ended_reason FROM sessions WHERE id = %s"
    assert execute(suite, query, person.session_id) == [("password_reset",)]
    assert kinds_of(suite, person.user_id)[-4:] == [
        "password_reset_requested",
        "password_reset",
        "sign_in_failed",
        "signed_in",
    ]


async def test_a_reset_uses_up_the_other_links_that_were_mailed(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    first = await reset_token(suite, auth, person.email)
    second = await reset_token(suite, auth, person.email, mails=3)
    await auth.StartEmailSignIn(pb.StartEmailSignInRequest(email=person.email), timeout=10)
    link = await suite.mailed_token(person.email, count=4)
    await reset(auth, second)
    assert (await refused(reset(auth, first))).reason == "TOKEN_INVALID"
    completing = auth.CompleteEmailSignIn(pb.CompleteEmailSignInRequest(token=link), timeout=10)
    assert (await refused(completing)).reason == "TOKEN_INVALID"


async def test_a_repeated_reset_is_one_reset(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    token, request_id = await reset_token(suite, auth, person.email), str(uuid.uuid4())
    answers = await asyncio.gather(*(reset(auth, token, request_id=request_id) for _ in range(3)))
    assert answers == [pb.ResetPasswordResponse()] * 3
    assert kinds_of(suite, person.user_id).count("password_reset") == 1
    assert (await refused(reset(auth, token, "a third long password", request_id=request_id))).reason == (
        "IDEMPOTENCY_MISMATCH"
    )


async def test_a_common_password_does_not_use_up_the_token(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    token = await reset_token(suite, auth, person.email)
    refusal = await refused(reset(auth, token, "password1"))
    assert (refusal.reason, list(refusal.fields)) == ("PASSWORD_REJECTED", ["new_password"])
    refusal = await refused(change(auth, person, new="Qwerty123"))
    assert (refusal.reason, list(refusal.fields)) == ("PASSWORD_REJECTED", ["new_password"])
    await reset(auth, token)


async def test_a_reset_proves_the_address_of_who_has_not_yet(suite: Suite, auth: Any) -> None:
    address = new_address()
    await auth.SignUp(pb.SignUpRequest(email=address, password=PASSWORD, name="Eve"), timeout=10)
    await reset(auth, await reset_token(suite, auth, address))
    assert (await sign_in(auth, address, OTHER_PASSWORD)).user.HasField("email_verify_time")
    assert (await refused(sign_in(auth, address))).reason == "EMAIL_UNVERIFIED"


async def test_a_disabled_user_gets_no_reset_mail_and_an_earlier_token_is_refused_until_enabled(
    suite: Suite, auth: Any
) -> None:
    person = await suite.person()
    token = await reset_token(suite, auth, person.email)
    execute(suite, "UPDATE users SET disabled_at = statement_timestamp() WHERE id = %s", person.user_id)
    assert (await refused(reset(auth, token))).reason == "TOKEN_INVALID"
    await auth.RequestPasswordReset(pb.RequestPasswordResetRequest(email=person.email), timeout=10)
    query = "SELECT count(*) FROM verification_tokens WHERE user_id = %s AND purpose = 'reset_password'"
    assert execute(suite, query, person.user_id) == [(1,)]
    execute(suite, "UPDATE users SET disabled_at = NULL WHERE id = %s", person.user_id)
    await reset(auth, token)


async def test_a_change_ends_the_other_sessions_at_once_and_keeps_its_own(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    other = await suite.signed_in(person.email)
    assert (await me(suite, other)).user.user_id == person.user_id
    await change(auth, person)
    assert (await refused(me(suite, other))).reason == "SESSION_ENDED"
    refresh = auth.RefreshSession(pb.RefreshSessionRequest(session_token=other.session_token), timeout=10)
    assert (await refused(refresh)).reason == "SESSION_ENDED"
    assert (await me(suite, person)).user.user_id == person.user_id
    assert (await refused(sign_in(auth, person.email))).reason == "INVALID_CREDENTIALS"
    assert (await sign_in(auth, person.email, OTHER_PASSWORD)).user.user_id == person.user_id
    assert "password of your account was changed" in (await suite.mails(person.email, count=2))[1]
    assert "password_changed" in kinds_of(suite, person.user_id)


async def test_a_change_ends_the_streams_of_other_sessions(suite: Suite, auth: Any) -> None:
    room = await Room.make(suite)
    other = await suite.signed_in(room.admin.email)
    async with listening(room, room.admin) as kept, listening(room, other) as ended:
        await change(auth, room.admin)
        assert (await ended.finish(seconds=5)).reason == event_service_pb2.STREAM_END_REASON_SESSION_ENDED
        await room.sent(room.admin, "still here")
        await kept.until(lambda: bool(kept.events))


async def test_a_reset_ends_all_streams(suite: Suite, auth: Any) -> None:
    room = await Room.make(suite)
    token = await reset_token(suite, auth, room.admin.email, mails=1)
    async with listening(room, room.admin) as listener:
        await reset(auth, token)
        assert (await listener.finish(seconds=5)).reason == event_service_pb2.STREAM_END_REASON_SESSION_ENDED


async def test_a_change_needs_the_present_password(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    for wrong in ("", "not the password"):
        refusal = await refused(change(auth, person, wrong))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")
    assert (await sign_in(auth, person.email)).user.user_id == person.user_id
    await change(auth, person)


async def test_who_has_no_password_sets_one_with_an_empty_present_one(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    execute(suite, "UPDATE users SET password_hash = NULL WHERE id = %s", person.user_id)
    assert (await refused(change(auth, person, PASSWORD))).reason == "INVALID_CREDENTIALS"
    await change(auth, person, "")
    assert (await sign_in(auth, person.email, OTHER_PASSWORD)).user.has_password
    assert (await refused(change(auth, person, ""))).reason == "INVALID_CREDENTIALS"


async def test_a_repeated_change_gets_its_answer_though_the_present_password_is_the_new_one(
    suite: Suite, auth: Any
) -> None:
    person, request_id = await suite.person(), str(uuid.uuid4())
    for _ in range(2):
        await change(auth, person, request_id=request_id)
    assert kinds_of(suite, person.user_id).count("password_changed") == 1
    assert (await refused(change(auth, person))).reason == "INVALID_CREDENTIALS"
    another = change(auth, person, "not the password", request_id=request_id)
    assert (await refused(another)).reason == "IDEMPOTENCY_MISMATCH"


async def test_of_sixteen_changes_at_once_one_wins(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    outcomes = await asyncio.gather(
        *(change(auth, person, new=f"{OTHER_PASSWORD} {number}") for number in range(16)), return_exceptions=True
    )
    assert sum(isinstance(outcome, pb.ChangePasswordResponse) for outcome in outcomes) == 1


def scrypted() -> str:
    salt = b"sixteen byte salt"
    key = hashlib.scrypt(PASSWORD.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)
    encoded = [base64.b64encode(raw).decode().rstrip("=") for raw in (salt, key)]
    return f"$scrypt$ln=14,r=8,p=1${encoded[0]}${encoded[1]}"


@pytest.mark.parametrize(
    "imported",
    [
        bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(6)).decode(),
        scrypted(),
        PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1, type=Type.I).hash(PASSWORD),
    ],
    ids=["bcrypt", "scrypt", "argon2i"],
)
async def test_an_imported_hash_is_renewed_by_the_first_sign_in(suite: Suite, auth: Any, imported: str) -> None:
    person = await suite.person()
    execute(suite, "UPDATE users SET password_hash = %s WHERE id = %s", imported, person.user_id)
    assert (await refused(sign_in(auth, person.email, OTHER_PASSWORD))).reason == "INVALID_CREDENTIALS"
    query = "SELECT password_hash FROM users WHERE id = %s"
    assert execute(suite, query, person.user_id) == [(imported,)]
    assert (await sign_in(auth, person.email)).user.user_id == person.user_id
    [(renewed,)] = execute(suite, query, person.user_id)
    assert renewed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (await sign_in(auth, person.email)).user.user_id == person.user_id


async def test_an_imported_password_can_be_changed_at_once(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    imported = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(6)).decode()
    execute(suite, "UPDATE users SET password_hash = %s WHERE id = %s", imported, person.user_id)
    await change(auth, person)
    assert (await sign_in(auth, person.email, OTHER_PASSWORD)).user.user_id == person.user_id


async def test_a_flood_of_changes_from_one_network_is_overloaded_there_and_keeps_nobody_else_out(
    suite: Suite, auth: Any
) -> None:
    people = [await suite.person() for _ in range(6)]

    async def change_from(person: Person, client_address: str) -> str:
        """OK, or the reason of the refusal."""
        request = pb.ChangePasswordRequest(current_password=PASSWORD, new_password=f"{PASSWORD} {uuid.uuid4()}")
        metadata = (*person.metadata, *from_address(client_address))
        try:
            await auth.ChangePassword(request, timeout=10, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return refusal_of(error).reason
        return "OK"

    # No more of them than the hashing itself takes: that they are of one network is what refuses some.
    flood = [asyncio.ensure_future(change_from(person, "192.0.2.94")) for person in people[1:] for _ in range(6)]
    assert len(flood) <= THREADS + WAITING
    await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    assert await change_from(people[0], "198.51.100.94") == "OK"
    reasons = Counter(await asyncio.gather(*flood))
    assert reasons["OVERLOADED"] > 0
    assert reasons["OK"] > 0


@pytest.mark.parametrize(
    "end",
    ["UPDATE users SET disabled_at = statement_timestamp() WHERE id = %s", "DELETE FROM users WHERE id = %s"],
)
async def test_a_change_by_who_is_disabled_or_deleted_during_the_call_is_refused_at_once(
    suite: Suite, auth: Any, end: str
) -> None:
    person = await suite.person()
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND CAST(transactionid AS text) = %s"
    with suite.database("identity_owner") as connection, connection.transaction():
        connection.execute(end.encode(), (person.user_id,))
        [(held,)] = connection.execute("SELECT CAST(CAST(pg_current_xact_id() AS xid) AS text)").fetchall()
        changing = asyncio.ensure_future(refused(change(auth, person)))
        await until(lambda: suite.rows("identity_owner", waiting, (held,)) == [(1,)])
    assert (await changing).reason == "SESSION_ENDED"
