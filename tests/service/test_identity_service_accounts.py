"""Service accounts: made by administrators, let in by their keys, ended with them."""

import asyncio
import uuid
from typing import Any

import grpc
import jwt
import pytest
from guildhall.identity.v1 import adapter_service_pb2 as adapter
from guildhall.identity.v1 import adapter_service_pb2_grpc as adapter_rpc
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import service_account_service_pb2 as pb
from guildhall.identity.v1 import service_account_service_pb2_grpc as rpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc

from tests.service.test_identity_sessions import alive, execute
from tests.support.suite import Person, Suite, refused


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


class Office:
    """An administrator, and the service accounts that they make."""

    def __init__(self, suite: Suite, admin: Person) -> None:
        self.suite = suite
        self.admin = admin
        self.stub = suite.stub(rpc.ServiceAccountServiceStub)

    @staticmethod
    async def open(suite: Suite) -> "Office":
        admin = await suite.person("Root")
        execute(suite, "UPDATE users SET administrator_since = statement_timestamp() WHERE id = %s", admin.user_id)
        return Office(suite, admin)

    async def account(self, *scopes: str, workspace_ids: Any = (), **values: Any) -> pb.ServiceAccount:
        request = pb.CreateServiceAccountRequest(
            name="shop", scopes=scopes or ["identity.users"], workspace_ids=workspace_ids, **values
        )
        made = (await self.admin.call(self.stub.CreateServiceAccount, request)).service_account
        assert isinstance(made, pb.ServiceAccount)
        return made

    def create_key(self, account_id: str, request_id: str = "") -> Any:
        request = pb.CreateServiceKeyRequest(service_account_id=account_id, request_id=request_id)
        return self.admin.call(self.stub.CreateServiceKey, request)

    def revoke_key(self, account_id: str, key_id: str) -> Any:
        request = pb.RevokeServiceKeyRequest(service_account_id=account_id, key_id=key_id)
        return self.admin.call(self.stub.RevokeServiceKey, request)

    def delete(self, account_id: str) -> Any:
        request = pb.DeleteServiceAccountRequest(service_account_id=account_id)
        return self.admin.call(self.stub.DeleteServiceAccount, request)

    async def exchange(self, service_key: str) -> str:
        stub = self.suite.stub(auth_rpc.AuthServiceStub)
        answer = await stub.ExchangeServiceKey(auth.ExchangeServiceKeyRequest(service_key=service_key), timeout=10)
        return str(answer.access_token)

    async def token(self, *scopes: str, workspace_ids: Any = ()) -> str:
        """An access token of a new account."""
        account = await self.account(*scopes, workspace_ids=workspace_ids)
        return await self.exchange((await self.create_key(account.service_account_id)).service_key)

    async def listed(self, account_id: str) -> pb.ServiceAccount | None:
        """An account as the list shows it."""
        token = ""
        while True:
            request = pb.ListServiceAccountsRequest(page_size=200, page_token=token)
            page = await self.admin.call(self.stub.ListServiceAccounts, request)
            for account in page.service_accounts:
                if account.service_account_id == account_id:
                    assert isinstance(account, pb.ServiceAccount)
                    return account
            if not (token := page.next_page_token):
                return None

    def import_nobody(self, token: str) -> Any:
        """A call at a door for service accounts with the scope identity.users, which refuses it as INVALID_REQUEST."""
        stub = self.suite.stub(users_rpc.UserServiceStub)
        return stub.ImportUser(users.ImportUserRequest(), timeout=10, metadata=bearer(token))


@pytest.fixture(scope="module")
async def office(suite: Suite) -> Office:
    return await Office.open(suite)


async def test_a_service_key_becomes_a_token_that_opens_the_doors_of_its_scopes(office: Office) -> None:
    account = await office.account("identity.users", "identity.other")
    assert (list(account.scopes), list(account.workspace_ids)) == (["identity.users", "identity.other"], [])
    made = await office.create_key(account.service_account_id)
    assert made.service_key.startswith("ghk_")
    token = await office.exchange(made.service_key)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["sub"], claims["sid"]) == (account.service_account_id, made.key.key_id)
    assert (claims["scope"], claims["exp"] - claims["iat"]) == ("identity.users identity.other", 300)
    assert "workspaces" not in claims
    # Let in, and only then told that its request is empty: the interceptors validate after they admit.
    assert (await refused(office.import_nobody(token))).reason == "INVALID_REQUEST"


async def test_a_secret_that_is_no_live_key_is_refused(office: Office) -> None:
    account = await office.account()
    made = await office.create_key(account.service_account_id)
    await office.exchange(made.service_key)
    await office.revoke_key(account.service_account_id, made.key.key_id)
    revoked, unknown = await refused(office.exchange(made.service_key)), await refused(office.exchange("ghk_none"))
    assert (revoked.code, revoked.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")
    assert revoked.raw == unknown.raw


async def test_a_user_is_not_let_in_at_a_door_for_service_accounts(office: Office) -> None:
    refusal = await refused(office.import_nobody(office.admin.access_token))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    assert "identity.users" in refusal.text


async def test_a_service_account_is_not_let_in_at_a_door_for_users_of_any_service(suite: Suite, office: Office) -> None:
    token = await office.token()
    get_user = suite.stub(users_rpc.UserServiceStub).GetUser
    create = suite.stub(workspaces_rpc.WorkspaceServiceStub).CreateWorkspace
    for call in (
        get_user(users.GetUserRequest(), timeout=10, metadata=bearer(token)),
        create(workspaces.CreateWorkspaceRequest(name="x"), timeout=10, metadata=bearer(token)),
        office.stub.ListServiceAccounts(pb.ListServiceAccountsRequest(), timeout=10, metadata=bearer(token)),
    ):
        assert (await refused(call)).reason == "CALLER_NOT_ALLOWED"


async def test_a_service_account_without_the_scope_is_refused_and_with_it_let_in(suite: Suite, office: Office) -> None:
    stub = suite.stub(adapter_rpc.AdapterServiceStub)

    def get_user(token: str) -> Any:
        request = adapter.AdapterServiceGetUserRequest(user_id=str(uuid.uuid4()))
        return stub.GetUser(request, timeout=10, metadata=bearer(token))

    refusal = await refused(get_user(await office.token("identity.users")))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    assert "identity.adapter" in refusal.text
    assert not (await get_user(await office.token("identity.adapter"))).HasField("user")


async def test_a_token_that_adds_a_scope_to_itself_is_refused(suite: Suite, office: Office) -> None:
    token = await office.token("identity.adapter")
    head, _body, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False}) | {"scope": "identity.users"}
    body = jwt.encode(claims, "k" * 32).split(".")[1]
    assert (await refused(office.import_nobody(f"{head}.{body}.{signature}"))).reason == "UNAUTHENTICATED"


async def test_the_very_next_call_after_a_key_was_revoked_is_refused(suite: Suite, office: Office) -> None:
    account = await office.account()
    kept, lost = [await office.create_key(account.service_account_id) for _ in range(2)]
    tokens = [await office.exchange(made.service_key) for made in (kept, lost)]
    for token in tokens:
        assert (await refused(office.import_nobody(token))).reason == "INVALID_REQUEST"
    revoked = await office.revoke_key(account.service_account_id, lost.key.key_id)
    assert revoked.key.HasField("revoke_time")
    valid = users.ImportUserRequest(email="somebody@example.com", name="Some")
    stub = suite.stub(users_rpc.UserServiceStub)
    refusal = await refused(stub.ImportUser(valid, timeout=10, metadata=bearer(tokens[1])))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "SESSION_ENDED")
    assert await alive(suite, kept.key.key_id, lost.key.key_id) == [True, False]
    again = await office.revoke_key(account.service_account_id, lost.key.key_id)
    assert again.key.revoke_time == revoked.key.revoke_time


async def test_deleting_a_service_account_ends_its_keys_and_tokens(suite: Suite, office: Office) -> None:
    account, other = await office.account(), await office.account()
    made, kept = [await office.create_key(each.service_account_id) for each in (account, other)]
    await office.exchange(made.service_key)
    await office.delete(account.service_account_id.upper())
    assert await alive(suite, made.key.key_id, kept.key.key_id) == [False, True]
    assert (await refused(office.exchange(made.service_key))).reason == "INVALID_CREDENTIALS"
    assert await office.listed(account.service_account_id) is None
    assert (await refused(office.delete(account.service_account_id))).reason == "NOT_FOUND"


async def test_a_third_live_key_is_refused_until_one_is_revoked(office: Office) -> None:
    account = await office.account()
    first, _ = [await office.create_key(account.service_account_id) for _ in range(2)]
    refusal = await refused(office.create_key(account.service_account_id))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_KEYS")
    await office.revoke_key(account.service_account_id, first.key.key_id)
    assert (await office.create_key(account.service_account_id)).service_key


async def test_eight_keys_asked_for_at_once_are_two(suite: Suite, office: Office) -> None:
    account = await office.account()
    with suite.database("identity_owner") as holder:
        # Held until several are on their way, which would all count no key yet.
        holder.execute("BEGIN")
        holder.execute("SELECT FROM service_accounts WHERE id = %s FOR UPDATE", [account.service_account_id])
        calls = [asyncio.ensure_future(office.create_key(account.service_account_id)) for _ in range(8)]
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while execute(suite, waiting) < [(3,)]:  # noqa: ASYNC110 - a lock sets no event
            await asyncio.sleep(0.01)
        holder.execute("COMMIT")
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, pb.CreateServiceKeyResponse) for outcome in outcomes) == 2
    shown = await office.listed(account.service_account_id)
    assert shown is not None
    assert len(shown.keys) == 2


async def test_a_repeated_call_gets_the_secret_again_for_ten_minutes_and_then_without_it(
    suite: Suite, office: Office
) -> None:
    account = await office.account()
    request_id = str(uuid.uuid4())
    first, again = [await office.create_key(account.service_account_id, request_id) for _ in range(2)]
    assert first == again
    assert first.service_key
    assert not first.secret_omitted
    age = "UPDATE idempotency_keys SET created_at = created_at - interval '10 minutes' WHERE caller = %s"
    execute(suite, age, office.admin.user_id)
    later = await office.create_key(account.service_account_id, request_id)
    assert (later.key, later.service_key, later.secret_omitted) == (first.key, "", True)
    assert await office.exchange(first.service_key)


async def test_no_secret_of_a_key_is_in_the_database(suite: Suite, office: Office) -> None:
    account = await office.account()
    made = await office.create_key(account.service_account_id, str(uuid.uuid4()))
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
    secret = made.service_key.removeprefix("ghk_")
    for (table,) in execute(suite, tables):
        rows = execute(suite, f'SELECT * FROM "{table}"')
        for row in rows:
            assert secret not in repr(row)


async def test_the_list_shows_accounts_with_their_live_keys_and_their_last_use(suite: Suite, office: Office) -> None:
    workspace_id = str(uuid.uuid4())
    account = await office.account("identity.users", workspace_ids=[workspace_id.upper()])
    assert list(account.workspace_ids) == [workspace_id]
    used, unused = [await office.create_key(account.service_account_id) for _ in range(2)]
    await office.exchange(used.service_key)
    shown = await office.listed(account.service_account_id)
    assert shown is not None
    assert [key.key_id for key in shown.keys] == [used.key.key_id, unused.key.key_id]
    assert [key.HasField("last_use_time") for key in shown.keys] == [True, False]
    await office.revoke_key(account.service_account_id, unused.key.key_id)
    shown = await office.listed(account.service_account_id)
    assert shown is not None
    assert [key.key_id for key in shown.keys] == [used.key.key_id]


@pytest.mark.parametrize(("seconds", "is_noted"), [(50, False), (70, True)])
async def test_the_use_of_a_key_is_noted_at_most_once_a_minute(
    suite: Suite, office: Office, seconds: int, is_noted: bool
) -> None:
    account = await office.account()
    made = await office.create_key(account.service_account_id)
    statement = """UPDATE service_keys SET last_used_at = statement_timestamp() - %s * interval '1 second'
        WHERE id = %s RETURNING last_used_at"""
    [(before,)] = execute(suite, statement, seconds, made.key.key_id)
    await office.exchange(made.service_key)
    [(after,)] = execute(suite, "SELECT last_used_at FROM service_keys WHERE id = %s", made.key.key_id)
    assert (after != before) is is_noted


async def test_accounts_come_page_by_page_and_page_tokens_are_the_callers_own(suite: Suite, office: Office) -> None:
    for _ in range(3):
        await office.account()
    seen: list[str] = []
    token = ""
    while not seen or token:
        request = pb.ListServiceAccountsRequest(page_size=2, page_token=token)
        page = await office.admin.call(office.stub.ListServiceAccounts, request)
        seen += [account.service_account_id for account in page.service_accounts]
        token = page.next_page_token or token
        if not page.next_page_token:
            break
    assert seen == sorted(set(seen))
    assert len(seen) == execute(suite, "SELECT count(*) FROM service_accounts")[0][0]
    other = await Office.open(suite)
    request = pb.ListServiceAccountsRequest(page_size=2, page_token=token)
    assert set((await refused(other.admin.call(other.stub.ListServiceAccounts, request))).fields) == {"page_token"}
    assert (await office.admin.call(office.stub.ListServiceAccounts, request)).service_accounts


async def test_whoever_is_no_administrator_is_refused_before_anything_is_looked_up(
    suite: Suite, office: Office
) -> None:
    account = await office.account()
    made = await office.create_key(account.service_account_id)
    person = await suite.person()
    known, unknown = account.service_account_id, str(uuid.uuid4())
    calls = [
        (office.stub.CreateServiceAccount, pb.CreateServiceAccountRequest(name="x", scopes=["identity.users"])),
        (office.stub.ListServiceAccounts, pb.ListServiceAccountsRequest(page_token="forged")),
        *((office.stub.CreateServiceKey, pb.CreateServiceKeyRequest(service_account_id=i)) for i in (known, unknown)),
        *(
            (office.stub.RevokeServiceKey, pb.RevokeServiceKeyRequest(service_account_id=i, key_id=made.key.key_id))
            for i in (known, unknown)
        ),
        *(
            (office.stub.DeleteServiceAccount, pb.DeleteServiceAccountRequest(service_account_id=i))
            for i in (known, unknown)
        ),
    ]
    refusals = [await refused(person.call(call, request)) for call, request in calls]
    assert {(refusal.code, refusal.reason) for refusal in refusals} == {
        (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    }
    assert len({refusal.raw for refusal in refusals}) == 1
    assert await alive(suite, made.key.key_id) == [True]


async def test_a_disabled_administrator_is_refused(suite: Suite) -> None:
    office = await Office.open(suite)
    await office.account()
    execute(suite, "UPDATE users SET disabled_at = statement_timestamp() WHERE id = %s", office.admin.user_id)
    assert (await refused(office.account())).reason == "SESSION_ENDED"


async def test_a_key_is_found_only_under_its_own_account(office: Office) -> None:
    account, other = await office.account(), await office.account()
    made = await office.create_key(account.service_account_id)
    for account_id, key_id in (
        (other.service_account_id, made.key.key_id),
        (str(uuid.uuid4()), made.key.key_id),
        (account.service_account_id, str(uuid.uuid4())),
    ):
        assert (await refused(office.revoke_key(account_id, key_id))).reason == "NOT_FOUND"
    assert (await refused(office.create_key(str(uuid.uuid4())))).reason == "NOT_FOUND"
    assert (await office.revoke_key(account.service_account_id, made.key.key_id)).key.HasField("revoke_time")


async def test_making_an_account_twice_with_one_key_makes_one(office: Office) -> None:
    request_id = str(uuid.uuid4())
    first, again = [await office.account(request_id=request_id) for _ in range(2)]
    assert first == again
