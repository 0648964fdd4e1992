"""`guildhall admin` on a suite as a user starts it."""

import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc

from tests.suite.conftest import Running


def somebody() -> str:
    return f"admin-{uuid.uuid4().hex[:12]}@example.com"


def admin(running: Running, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command, which must end with this exit code."""
    done = running.guildhall("admin", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def gateway(running: Running) -> grpc.Channel:
    return grpc.insecure_channel(running.gateway, options=[("grpc.enable_http_proxy", 0)])


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def test_the_first_administrator_is_made_here_and_may_then_do_what_others_may_not(running: Running) -> None:
    address = somebody()
    token = running.token(address)
    with gateway(running) as channel:
        stub = users_rpc.UserServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.ListUsers(users.ListUsersRequest(), timeout=10, metadata=bearer(token))
        assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
        done = admin(running, "make-administrator", address.upper())
        assert done.stdout == ""
        assert "is a system administrator" in done.stderr
        answer = stub.ListUsers(users.ListUsersRequest(email_prefix=address), timeout=10, metadata=bearer(token))
        assert [user.system_admin for user in answer.users] == [True]
    admin(running, "make-administrator", address)


def test_an_unknown_or_unproven_address_becomes_no_administrator(running: Running) -> None:
    address = somebody()
    assert "Nobody has that address" in admin(running, "make-administrator", address, code=1).stderr
    with gateway(running) as channel:
        request = auth.SignUpRequest(email=address, password=uuid.uuid4().hex, name="Eve")
        auth_rpc.AuthServiceStub(channel).SignUp(request, timeout=10)
    assert "never proven" in admin(running, "make-administrator", address, code=1).stderr


def test_the_first_service_key_is_printed_alone_and_works(running: Running) -> None:
    name = f"Product {uuid.uuid4().hex[:8]}"
    account_id = admin(running, "create-service-account", name, "--scope", "identity.users").stdout.strip()
    assert str(uuid.UUID(account_id)) == account_id

    done = admin(running, "create-service-key", account_id)

    key = done.stdout.strip()
    assert key.startswith("ghk_")
    assert "\n" not in key
    assert key not in done.stderr
    with gateway(running) as channel:
        request = auth.ExchangeServiceKeyRequest(service_key=key)
        token = auth_rpc.AuthServiceStub(channel).ExchangeServiceKey(request, timeout=10).access_token
        made = users_rpc.UserServiceStub(channel).ImportUser(
            users.ImportUserRequest(email=somebody(), name="Olga"), timeout=10, metadata=bearer(token)
        )
        assert made.user.name == "Olga"

    listed: list[dict[str, Any]] = json.loads(admin(running, "list-service-accounts", "--output", "json").stdout)
    (account,) = [account for account in listed if account["service_account_id"] == account_id]
    assert (account["name"], account["scopes"], account["workspace_ids"]) == (name, ["identity.users"], [])
    assert len(account["keys"]) == 1
    text = admin(running, "list-service-accounts").stdout
    assert account_id in text
    assert account["keys"][0]["key_id"] in text
    assert key not in text


def test_programs_get_the_same_as_json(running: Running) -> None:
    address = somebody()
    running.token(address)
    person = json.loads(admin(running, "make-administrator", address, "--output", "json").stdout)
    account = json.loads(admin(running, "create-service-account", "Web", "--scope", "a.b", "-o", "json").stdout)
    key = json.loads(admin(running, "create-service-key", account["service_account_id"], "-o", "json").stdout)

    assert str(uuid.UUID(person["user_id"])) == person["user_id"]
    assert key["service_key"].startswith("ghk_")
    assert str(uuid.UUID(key["key_id"])) == key["key_id"]
    exported = json.loads(admin(running, "export-user", address, "-o", "json").stdout)
    assert exported["user"]["user_id"] == person["user_id"]
    added = json.loads(admin(running, "rotate-signing-key", "-o", "json").stdout)["key_id"]
    assert (running.settings.layout.keys / f"{added}.pem").exists()
    assert added not in json.loads(admin(running, "retire-signing-keys", "-o", "json").stdout)["key_ids"]
    gone = json.loads(admin(running, "delete-user", address, "--yes", "-o", "json", code=0).stdout)
    assert gone == person


def test_a_third_key_and_a_scope_that_is_none_are_refused_in_words(running: Running) -> None:
    workspace = str(uuid.uuid4())
    made = admin(running, "create-service-account", "Bound", "--scope", "a.b", "--workspace", workspace)
    account_id = made.stdout.strip()
    for _ in range(2):
        admin(running, "create-service-key", account_id)
    assert "two live keys" in admin(running, "create-service-key", account_id, code=1).stderr
    assert "no such thing" in admin(running, "create-service-key", str(uuid.uuid4()), code=1).stderr
    assert "account_id" in admin(running, "create-service-key", "x", code=1).stderr
    assert "scopes" in admin(running, "create-service-account", "Odd", "--scope", "Everything!", code=1).stderr


def test_a_signing_key_is_added_as_the_next_to_sign(running: Running) -> None:
    folder = running.settings.layout.keys
    before = {path.stem for path in folder.glob("*.pem")}
    key_id = admin(running, "rotate-signing-key").stdout.strip()
    assert {path.stem for path in folder.glob("*.pem")} == before | {key_id}
    assert key_id > max(before)
    assert running.token(somebody())


def test_a_person_is_exported_and_then_deleted(running: Running) -> None:
    address = somebody()
    token = running.token(address)

    exported = json.loads(admin(running, "export-user", address).stdout)

    assert (exported["user"]["email"], exported["user"]["has_password"]) == (address, True)
    assert [session["device_label"] for session in exported["sessions"]] == ["guildhall token"]
    kinds = {event["kind"] for event in exported["security_events"]}
    assert {"email_verified", "signed_in"} <= kinds
    assert exported["accounts"] == []
    secrets = json.dumps(exported)
    assert "$argon2" not in secrets
    assert "token_hash" not in secrets

    assert "--yes" in admin(running, "delete-user", address, code=1).stderr
    with gateway(running) as channel:
        stub = users_rpc.UserServiceStub(channel)
        stub.GetUser(users.GetUserRequest(), timeout=10, metadata=bearer(token))
        done = admin(running, "delete-user", address, "--yes")
        assert done.stdout == ""
        with pytest.raises(grpc.RpcError) as refusal:
            stub.GetUser(users.GetUserRequest(), timeout=10, metadata=bearer(token))
        assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "Nobody has that address" in admin(running, "export-user", address, code=1).stderr


def test_help_lists_the_commands_and_what_is_none_is_not_understood(running: Running) -> None:
    for arguments in ((), ("--help",)):
        text = admin(running, *arguments).stdout
        assert "make-administrator" in text
        assert "create-service-key" in text
    assert "invalid choice" in admin(running, "destroy-everything", code=2).stderr


def test_without_a_running_suite_it_says_how_to_start_one(running: Running, tmp_path: Path) -> None:
    stopped = Running(running.settings, {**running.environment, "GUILDHALL_DATA_DIR": str(tmp_path / "stopped")})
    done = admin(stopped, "list-service-accounts", code=1)
    assert "nothing runs on" in done.stderr
    assert "guildhall up" in done.stderr
