"""Taking over users of another system."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import bcrypt
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import user_service_pb2 as pb
from guildhall.identity.v1 import user_service_pb2_grpc as rpc

from tests.support.administrators import Backend, backend
from tests.support.suite import PASSWORD, Suite, refused

VERIFIED = datetime(2020, 2, 29, 12, tzinfo=UTC)


@pytest.fixture
def users(suite: Suite) -> Any:
    return suite.stub(rpc.UserServiceStub)


@pytest.fixture
async def product(suite: Suite) -> Backend:
    """The product's own back end."""
    return await backend(suite, "identity.users")


def hashed(password: str = PASSWORD) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=4)).decode()


def user(verified: datetime | None = VERIFIED, **fields: Any) -> pb.ImportUserRequest:
    """Somebody of the other system."""
    values = {"email": f"Old-{uuid.uuid4().hex[:12]}@Example.com", "name": "Olga", **fields}
    if verified is not None:
        values["email_verify_time"] = Timestamp()
        values["email_verify_time"].FromDatetime(verified)
    return pb.ImportUserRequest(**values)


def sign_in(suite: Suite, address: str) -> Any:
    request = auth.SignInRequest(email=address, password=PASSWORD)
    return suite.stub(auth_rpc.AuthServiceStub).SignIn(request, timeout=10)


def stored_hash(suite: Suite, user_id: str) -> str | None:
    with suite.database("identity") as database:
        row = database.execute("SELECT password_hash FROM users WHERE id = %s", [user_id]).fetchone()
    assert row is not None
    return row[0]


async def test_an_imported_user_signs_in_by_the_old_password_whose_hash_is_renewed(
    suite: Suite, users: Any, product: Backend
) -> None:
    request = user(password_hash=hashed(), image_url="https://example.com/o.png")
    made = (await product.call(users.ImportUser, request)).user
    assert (made.email, made.name, made.image_url) == (request.email, "Olga", "https://example.com/o.png")
    assert made.email_verify_time.ToDatetime(UTC) == VERIFIED
    assert not made.HasField("has_password")
    assert str(stored_hash(suite, made.user_id)).startswith("$2")

    answer = await sign_in(suite, request.email.lower())

    assert answer.user.user_id == made.user_id
    assert str(stored_hash(suite, made.user_id)).startswith("$argon2id$")
    assert (await sign_in(suite, request.email)).user.user_id == made.user_id


async def test_an_address_is_imported_once_however_it_is_spelt(suite: Suite, users: Any, product: Backend) -> None:
    request = user(request_id=str(uuid.uuid4()))
    first = await product.call(users.ImportUser, request)
    assert await product.call(users.ImportUser, request) == first
    again = user(email=request.email.upper())
    refusal = await refused(product.call(users.ImportUser, again))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")


async def test_a_hash_of_another_kind_is_refused_and_nobody_is_made(suite: Suite, users: Any, product: Backend) -> None:
    request = user(password_hash="$1$salt$qJH7.N4xYta3aEG/dfqo/0")
    assert (await refused(product.call(users.ImportUser, request))).reason == "PASSWORD_HASH_UNSUPPORTED"
    request.password_hash = ""
    made = (await product.call(users.ImportUser, request)).user
    assert stored_hash(suite, made.user_id) is None


async def test_an_address_that_was_not_proven_there_is_not_here(suite: Suite, users: Any, product: Backend) -> None:
    request = user(verified=None, password_hash=hashed())
    made = (await product.call(users.ImportUser, request)).user
    assert not made.HasField("email_verify_time")
    assert (await refused(sign_in(suite, request.email))).reason == "EMAIL_UNVERIFIED"


async def test_a_time_of_proof_that_is_still_to_come_is_taken_for_now(users: Any, product: Backend) -> None:
    soon = datetime.now(UTC) + timedelta(days=1)
    made = (await product.call(users.ImportUser, user(verified=soon))).user
    assert made.email_verify_time.ToDatetime(UTC) < soon
    beyond = user()
    beyond.email_verify_time.seconds = 1 << 60
    assert (await refused(product.call(users.ImportUser, beyond))).reason == "INVALID_REQUEST"


async def test_only_a_back_end_of_that_scope_imports(suite: Suite, users: Any) -> None:
    person, other = await suite.person("Ada"), await backend(suite, "identity.adapter")
    for refusal in (
        await refused(person.call(users.ImportUser, user())),
        await refused(other.call(users.ImportUser, user())),
    ):
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
