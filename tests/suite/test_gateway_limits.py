"""How many calls the gateway lets through: by address without a token, by user with one, fewer with passwords."""

import contextlib
import time
from collections.abc import Callable, Iterator

import grpc
import httpx
import pytest
from google.protobuf import json_format
from google.rpc import code_pb2, error_details_pb2, status_pb2
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc

from tests.suite.conftest import Running
from tests.support.edges import Edge, channel_to, gateway_beside, reason_of, status_of

PER_SECOND = {
    "calls_per_second_of_user": 2,
    "calls_per_second_of_service_account": 4,
    "calls_per_second_of_address": 1,
    "sign_ins_per_second_of_address": 1,
    "most_counted_callers": 40,
}
MOST_TRIES = 60  # at each limit above, far more than are let through in the second that they take
FEW = 5  # less than a full bucket holds
OPEN = ("POST", "/v1/invitations:preview")
SIGN_IN = ("POST", "/v1/auth:signIn")
ME = ("GET", "/v1/users/me")


@pytest.fixture(scope="module")
def edge(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """A gateway of the running suite that lets little through, each address and user being new to it."""
    with gateway_beside(running.settings, tmp_path_factory.mktemp("edge"), PER_SECOND) as found:
        yield found


@pytest.fixture(scope="module")
def ada(running: Running) -> str:
    return running.token("ada.limits@example.com")


@pytest.fixture(scope="module")
def bob(running: Running) -> str:
    return running.token("bob.limits@example.com")


class From:
    """JSON calls from one address of this machine."""

    def __init__(self, stack: contextlib.ExitStack, edge: Edge, address: str, token: str) -> None:
        transport = httpx.HTTPTransport(local_address=address)
        client = httpx.Client(base_url=f"http://{edge.address}", transport=transport, trust_env=False)
        self._client = stack.enter_context(client)
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def call(self, method: str, path: str) -> httpx.Response:
        """One call; a POST has an empty object as its body."""
        content = b"{}" if method == "POST" else None
        headers = {**self._headers, "content-type": "application/json"}
        return self._client.request(method, path, content=content, headers=headers)

    def until_refused(self, method: str, path: str) -> httpx.Response:
        """Calls until one is refused as too many."""
        for _ in range(MOST_TRIES):
            answer = self.call(method, path)
            if answer.status_code == 429:
                return answer
        raise AssertionError(f"{MOST_TRIES} calls were let through")

    def is_refused(self, method: str, path: str) -> bool:
        """Whether these calls find no full bucket. The first may find what has come into it meanwhile."""
        return any(not self.is_let_through(method, path) for _ in range(FEW))

    def is_let_through(self, method: str, path: str) -> bool:
        """Whether one more call is."""
        return self.call(method, path).status_code != 429


Callers = Callable[..., From]


@pytest.fixture
def called_from(edge: Edge) -> Iterator[Callers]:
    """Makes callers on this machine's addresses, 127.0.0.0/8, for one test."""
    with contextlib.ExitStack() as stack:
        yield lambda address, token="": From(stack, edge, address, token)


def get_user(channel: grpc.Channel, token: str) -> users.GetUserResponse:
    answer: users.GetUserResponse = users_rpc.UserServiceStub(channel).GetUser(
        users.GetUserRequest(), timeout=5, metadata=(("authorization", f"Bearer {token}"),)
    )
    return answer


def until_refused(call: Callable[[], object]) -> grpc.RpcError:
    for _ in range(MOST_TRIES):
        try:
            call()
        except grpc.RpcError as error:
            return error
    raise AssertionError(f"{MOST_TRIES} calls were let through")


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


def test_a_user_who_calls_too_often_is_told_when_to_come_back_and_nobody_else_is_stopped(
    edge: Edge, ada: str, bob: str
) -> None:
    with channel_to(edge.address) as channel:
        refused = until_refused(lambda: get_user(channel, ada))

        status = status_of(refused)
        retry = error_details_pb2.RetryInfo()
        assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(status) == "RATE_LIMITED"
        assert any(detail.Unpack(retry) for detail in status.details)
        assert retry.retry_delay.seconds == 1
        assert get_user(channel, bob).user.email == "bob.limits@example.com"


def test_json_and_grpc_are_refused_with_the_same_body_and_json_with_retry_after(
    edge: Edge, called_from: Callers, running: Running
) -> None:
    token = running.token("cleo.limits@example.com")
    with channel_to(edge.address) as channel:
        refused = until_refused(lambda: get_user(channel, token))
    answer = called_from("127.0.0.1", token).until_refused(*ME)

    assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answer.headers["retry-after"] == "1"
    assert json_format.Parse(answer.text, status_pb2.Status()) == status_of(refused)
    assert answer.json()["code"] == code_pb2.RESOURCE_EXHAUSTED


def test_a_user_is_counted_wherever_they_call_from(called_from: Callers, running: Running) -> None:
    token = running.token("dora.limits@example.com")
    called_from("127.0.0.10", token).until_refused(*ME)

    assert called_from("127.0.0.11", token).is_refused(*ME)


def test_a_service_account_is_counted_by_itself_and_has_a_limit_of_its_own(
    called_from: Callers, running: Running
) -> None:
    made = running.guildhall("admin", "create-service-account", "limits", "--scope", "identity.users")
    key = running.guildhall("admin", "create-service-key", made.stdout.strip()).stdout.strip()
    with channel_to(running.gateway) as channel:
        request = auth.ExchangeServiceKeyRequest(service_key=key)
        token = auth_rpc.AuthServiceStub(channel).ExchangeServiceKey(request, timeout=5).access_token
    account = called_from("127.0.0.18", token)
    # What a user may make at once, and as much again: all of it at once, so that little comes into the bucket.
    of_user = 10 * PER_SECOND["calls_per_second_of_user"]

    assert all(account.is_let_through(*ME) for _ in range(of_user + FEW))
    assert account.until_refused(*ME).json()["details"][0]["reason"] == "RATE_LIMITED"
    assert called_from("127.0.0.19", token).is_refused(*ME)


def test_an_address_without_a_token_is_limited_and_no_other_address_nor_who_is_signed_in_there(
    called_from: Callers, bob: str
) -> None:
    nobody = called_from("127.0.0.12")
    answer = nobody.until_refused(*OPEN)

    assert answer.json()["details"][0]["reason"] == "RATE_LIMITED"
    assert called_from("127.0.0.13").is_let_through(*OPEN)
    assert called_from("127.0.0.12", bob).call(*ME).status_code == 200


def test_a_token_that_is_not_valid_counts_as_none(called_from: Callers, ada: str) -> None:
    head, body, _ = ada.split(".")
    forged = called_from("127.0.0.14", f"{head}.{body}.{'A' * 86}")
    refused = forged.until_refused(*ME)

    assert refused.json()["details"][0]["reason"] == "RATE_LIMITED"
    assert called_from("127.0.0.14").is_refused(*OPEN)


def test_an_address_is_let_through_again_soon_after(called_from: Callers) -> None:
    nobody = called_from("127.0.0.15")
    nobody.until_refused(*OPEN)

    assert within(5, lambda: nobody.is_let_through(*OPEN))


def test_trying_passwords_has_a_bucket_of_its_own(called_from: Callers) -> None:
    nobody = called_from("127.0.0.16")
    nobody.until_refused(*SIGN_IN)

    assert nobody.is_let_through(*OPEN)
    assert nobody.is_refused("POST", "/v1/auth:signUp")
    assert called_from("127.0.0.17").is_let_through(*SIGN_IN)


def test_the_signing_keys_are_still_had_from_the_address_of_a_flood(called_from: Callers) -> None:
    nobody = called_from("127.0.0.1")
    nobody.until_refused(*OPEN)

    assert nobody.call("GET", "/.well-known/jwks.json").status_code == 200


def test_no_more_callers_are_counted_than_are_allowed_for(called_from: Callers) -> None:
    first = called_from("127.0.1.1")
    first.until_refused(*OPEN)

    for number in range(PER_SECOND["most_counted_callers"]):
        called_from(f"127.0.2.{number + 1}").call(*OPEN)

    # Its bucket was given up for the newer ones: had they been kept as well, it would hold one or two calls.
    assert all(first.is_let_through(*OPEN) for _ in range(5))
