"""Secrets and personal texts, given to every RPC of a real suite, are looked for wherever they must not be."""

import socket
import threading
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from typing import Any

import grpc
import psycopg
import pytest
import redis
from google.protobuf.descriptor import FieldDescriptor
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.options.v1 import access_pb2

from deploy.stack import secrets as stack_secrets
from deploy.stack import suite
from deploy.stack import tokens as stack_tokens
from deploy.stack.settings import SERVICES
from services.chassis import contracts
from tests.suite.conftest import Running
from tests.support.backends import wait_until
from tests.support.requests import fill

MARK = f"canary{uuid.uuid4().hex[:8]}"
"""In every text of this run that must stay where it belongs."""


@dataclass
class Traces:
    """What was seen where nothing of it may be."""

    commands: bytearray = field(default_factory=bytearray)
    """Every command that Valkey was given meanwhile."""
    refusals: list[bytes] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    """RPCs that broke."""
    secrets: list[str] = field(default_factory=list)
    """What the suite made: tokens."""


def canary(described: FieldDescriptor) -> str:
    """A text for a sensitive field, of a form that gets as far as the handler where it can."""
    if described.name == "email" or described.name.endswith("_email"):
        return f"{MARK}-{uuid.uuid4().hex[:8]}@example.com"
    return f"{MARK}-{described.name}"[:20]


def listen(path: str, traces: Traces, ready: threading.Event, over: threading.Event) -> None:
    """Notes every command that Valkey is given until it is over."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(b"MONITOR\r\n")
        connection.settimeout(0.2)
        ready.set()
        while not over.is_set():
            try:
                traces.commands += connection.recv(1 << 20)
            except TimeoutError:
                continue


@pytest.fixture(scope="module")
def traces(running: Running) -> Traces:
    """A person's first steps, then every public RPC with canaries in it, by somebody signed in and by nobody."""
    found, ready, over = Traces(), threading.Event(), threading.Event()
    path = f"{running.settings.layout.sockets}/valkey.sock"
    listening = threading.Thread(target=listen, args=(path, found, ready, over), daemon=True)
    listening.start()
    assert ready.wait(10)
    with grpc.insecure_channel(running.gateway, options=[("grpc.enable_http_proxy", 0)]) as channel:
        found.secrets += first_steps(running, channel)
        token = running.token(f"{MARK}-caller@example.com")
        found.secrets.append(token)
        for rpc in contracts.rpcs().values():
            if not rpc.lets_in(access_pb2.CALLER_PEER) and not rpc.client_streaming:
                for metadata in ([], [("authorization", f"Bearer {token}")]):
                    call(channel, rpc, metadata, found)
    ask_in_a_url(running, token)
    wait_until(lambda: waiting(running) == 0, "all that was left for later is done", seconds=120)
    last = uuid.uuid4().hex
    with valkey(running) as client:
        client.echo(last)
    wait_until(lambda: last.encode() in found.commands, "every command before this one was noted")
    over.set()
    listening.join(10)
    return found


def valkey(running: Running) -> redis.Redis:
    """A client of the suite's own Valkey."""
    return redis.Redis.from_url(suite.assemble(running.settings).valkey.url)


def waiting(running: Running) -> int:
    """Events and works that are due and not done, in one snapshot of all tables, and tasks that no worker has ended."""
    due = [
        f"SELECT 1 FROM {service}.outbox WHERE NOT dead AND created_at <= statement_timestamp()"
        f" UNION ALL SELECT 1 FROM {service}.inbox WHERE NOT dead AND applied_at IS NULL"
        for service in SERVICES
    ]
    with suite.assemble(running.settings).admin_database() as admin:
        (rows,) = admin.execute(f"SELECT count(*) FROM ({' UNION ALL '.join(due)}) due").fetchone() or (0,)  # type: ignore[arg-type]
    with valkey(running) as client:
        counts: Any = [*(client.llen(service) for service in SERVICES), client.hlen("unacked")]
    return int(rows) + sum(counts)


def first_steps(running: Running, channel: grpc.Channel) -> list[str]:
    """Signs somebody up and in; returns the secrets of it."""
    stub: Any = auth_rpc.AuthServiceStub(channel)
    address, password = f"{MARK}-person@example.com", f"{MARK} password"
    since = time.time() - 1
    signing_up = auth.SignUpRequest(email=address, password=password, name=f"{MARK} name", request_id=str(uuid.uuid4()))
    stub.SignUp(signing_up, timeout=10)
    mailed = stack_tokens.wait_for_token(running.settings.layout.mail, address, since)
    stub.VerifyEmail(auth.VerifyEmailRequest(token=mailed, request_id=str(uuid.uuid4())), timeout=10)
    request = auth.SignInRequest(
        email=address, password=password, device_label=f"{MARK} device", request_id=str(uuid.uuid4())
    )
    tokens = stub.SignIn(request, timeout=10).tokens
    refreshed = stub.RefreshSession(auth.RefreshSessionRequest(session_token=tokens.session_token), timeout=10).tokens
    return [mailed, tokens.session_token, tokens.access_token, refreshed.session_token, refreshed.access_token]


def ask_in_a_url(running: Running, token: str) -> None:
    """Puts a canary where access logs have it from: a query."""
    url = f"http://{running.gateway}/v1/users?emailPrefix={MARK}"
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=10)


def call(channel: grpc.Channel, rpc: contracts.Rpc, metadata: list[tuple[str, str]], found: Traces) -> None:
    """Calls an RPC with a canary in every sensitive field, and notes the refusal if there is one."""
    request: Any = fill(contracts.request_class(rpc)(), canary)
    options = {"timeout": 5, "metadata": metadata}
    try:
        if rpc.server_streaming:
            answers = channel.unary_stream(rpc.name)(request.SerializeToString(), **options)
            next(iter(answers), None)
            answers.cancel()
        else:
            channel.unary_unary(rpc.name)(request.SerializeToString(), **options)
    except grpc.RpcError as error:
        refusal: Any = error
        if refusal.code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL):
            found.defects.append(f"{rpc.name}: {refusal}")
        found.refusals.append((refusal.details() or "").encode())
        found.refusals += [bytes(v) for k, v in refusal.trailing_metadata() or () if k == "grpc-status-details-bin"]


def test_every_public_rpc_was_called(traces: Traces) -> None:
    assert len(traces.refusals) > len(contracts.rpcs())
    assert len(traces.secrets) >= 6
    assert traces.defects == []


def test_no_canary_is_in_an_error(traces: Traces) -> None:
    assert [refusal for refusal in traces.refusals if MARK.encode() in refusal] == []


def test_no_canary_and_no_secret_is_in_a_log(running: Running, traces: Traces) -> None:
    logs = {path.name: path.read_text(errors="replace") for path in running.settings.layout.logs.glob("*.log")}
    assert sum(text.count("SignUp") for text in logs.values()) > 0
    for text in (MARK, *traces.secrets):
        assert [name for name, lines in logs.items() if text in lines] == [], text


def test_no_canary_and_no_secret_went_to_valkey_in_a_task_a_key_or_a_wake_up(traces: Traces) -> None:
    assert b'"PUBLISH"' in traces.commands
    assert b'"LPUSH"' in traces.commands  # tasks
    assert [text for text in (MARK, *traces.secrets) if text.encode() in traces.commands] == []


def test_no_secret_is_in_the_database_in_clear(running: Running, traces: Traces) -> None:
    passwords = stack_secrets.database_passwords(running.settings.layout.secrets)
    found = []
    for service in ("identity", "membership", "guest", "messaging"):
        url = f"postgresql://{service}_owner@/guildhall?host={running.settings.layout.postgres_sockets}"
        with psycopg.connect(url, password=passwords[f"{service}_owner"]) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (service,)).fetchall()
            for (table,) in tables:
                rows = connection.execute(f"SELECT CAST(t AS text) FROM {service}.{table} t").fetchall()  # type: ignore[arg-type]
                stored = "\n".join(row for (row,) in rows)
                secrets = (*traces.secrets, f"{MARK} password")
                found += [(table, text) for text in secrets if text in stored or text.encode().hex() in stored]
    assert found == []
