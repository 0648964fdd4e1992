"""Accounts at providers: linked by a back end, listed and unlinked by their users, their tokens sealed."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.fernet import Fernet, InvalidToken
from guildhall.identity.v1 import account_service_pb2 as pb
from guildhall.identity.v1 import account_service_pb2_grpc as rpc
from guildhall.identity.v1 import adapter_service_pb2 as adapter

from services.identity.accounts import BATCH
from services.identity.seals import Seals
from services.identity.tasks import reseal_accounts
from tests.support.administrators import Backend, backend
from tests.support.identities import execute, kinds_of
from tests.support.suite import Person, Suite, refusal_of, refused

TOKENS = ("refresh_token", "access_token", "id_token")


@pytest.fixture(scope="module")
def stub(suite: Suite) -> Any:
    return suite.stub(rpc.AccountServiceStub)


@pytest.fixture(scope="module")
async def product(suite: Suite) -> Backend:
    return await backend(suite, "identity.accounts")


def account_of(user_id: str, provider: str = "github", **fields: Any) -> adapter.AdapterAccount:
    """An account that nobody has."""
    values = {"type": "oauth", "provider_account_id": uuid.uuid4().hex, **fields}
    return adapter.AdapterAccount(user_id=user_id, provider=provider, **values)


async def link(stub: Any, product: Backend, account: adapter.AdapterAccount, request_id: str = "") -> pb.Account:
    request = pb.LinkAccountRequest(account=account, request_id=request_id)
    linked = (await product.call(stub.LinkAccount, request)).account
    assert isinstance(linked, pb.Account)
    return linked


async def list_all(stub: Any, person: Person, **page: Any) -> list[pb.Account]:
    return list((await person.call(stub.ListAccounts, pb.ListAccountsRequest(**page))).accounts)


def unlink(stub: Any, person: Person, account: pb.Account, request_id: str = "") -> Any:
    return person.call(
        stub.UnlinkAccount, pb.UnlinkAccountRequest(account_id=account.account_id, request_id=request_id)
    )


def take_password(suite: Suite, person: Person) -> None:
    """As if they had come by way of a provider."""
    execute(suite, "UPDATE users SET password_hash = NULL WHERE id = %s", person.user_id)


def keys_file(suite: Suite) -> Path:
    return Path(suite.settings("identity").provider_keys_file)  # type: ignore[attr-defined]


async def test_a_linked_account_is_listed_without_its_tokens(suite: Suite, stub: Any, product: Backend) -> None:
    ada = await suite.person()
    account = account_of(ada.user_id, scope="read:user", refresh_token="r", access_token="a", id_token="i")
    linked = await link(stub, product, account)
    assert (linked.user_id, linked.type, linked.provider) == (ada.user_id, "oauth", "github")
    assert (linked.provider_account_id, linked.scope) == (account.provider_account_id, "read:user")
    assert linked.HasField("create_time")
    assert await list_all(stub, ada) == [linked]
    assert kinds_of(suite, ada.user_id)[-1] == "account_linked"


async def test_accounts_are_listed_page_by_page_in_their_order_and_only_ones_own(
    suite: Suite, stub: Any, product: Backend
) -> None:
    ada, ben = await suite.person(), await suite.person("Ben")
    linked = [await link(stub, product, account_of(ada.user_id, provider)) for provider in ("a", "b", "c")]
    await link(stub, product, account_of(ben.user_id))
    first = await ada.call(stub.ListAccounts, pb.ListAccountsRequest(page_size=2))
    assert list(first.accounts) == linked[:2]
    last = await ada.call(stub.ListAccounts, pb.ListAccountsRequest(page_size=2, page_token=first.next_page_token))
    assert (list(last.accounts), last.next_page_token) == (linked[2:], "")
    stolen = ben.call(stub.ListAccounts, pb.ListAccountsRequest(page_size=2, page_token=first.next_page_token))
    assert (await refused(stolen)).fields.keys() == {"page_token"}


async def test_linking_again_is_the_same_link_with_the_new_tokens(suite: Suite, stub: Any, product: Backend) -> None:
    ada = await suite.person()
    account = account_of(ada.user_id, access_token="old", scope="one", session_state="s", expires_at=1)
    linked = await link(stub, product, account)
    again = adapter.AdapterAccount()
    again.CopyFrom(account)
    for field in ("session_state", "expires_at"):
        again.ClearField(field)
    again.access_token, again.scope = "new", "one two"
    assert (await link(stub, product, again)).account_id == linked.account_id
    [(sealed, session_state, expires_at)] = execute(
        suite, "SELECT sealed_access_token, session_state, expires_at FROM accounts WHERE id = %s", linked.account_id
    )
    key = keys_file(suite).read_text().split()[0]
    assert Fernet(key).decrypt(bytes(sealed)) == b"new"
    assert (session_state, expires_at) == (None, None)
    assert [listed.scope for listed in await list_all(stub, ada)] == ["one two"]
    assert kinds_of(suite, ada.user_id).count("account_linked") == 1


async def test_an_account_that_is_linked_to_another_user_is_refused(suite: Suite, stub: Any, product: Backend) -> None:
    ada, ben = await suite.person(), await suite.person("Ben")
    account = account_of(ada.user_id)
    await link(stub, product, account)
    account.user_id = ben.user_id
    refusal = await refused(product.call(stub.LinkAccount, pb.LinkAccountRequest(account=account)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ACCOUNT_LINKED_ELSEWHERE")
    assert await list_all(stub, ben) == []
    assert len(await list_all(stub, ada)) == 1


async def test_the_same_id_at_another_provider_is_another_account(suite: Suite, stub: Any, product: Backend) -> None:
    ada, ben = await suite.person(), await suite.person("Ben")
    account = account_of(ada.user_id, "github")
    await link(stub, product, account)
    account.user_id, account.provider = ben.user_id, "gitlab"
    assert (await link(stub, product, account)).user_id == ben.user_id


async def test_of_many_users_who_link_one_account_at_once_one_wins(suite: Suite, stub: Any, product: Backend) -> None:
    people = await asyncio.gather(*(suite.person() for _ in range(8)))
    name = uuid.uuid4().hex

    async def outcome(person: Person) -> str:
        try:
            await link(stub, product, account_of(person.user_id, provider_account_id=name))
        except grpc.aio.AioRpcError as error:
            return refusal_of(error).reason
        return "linked"

    outcomes = await asyncio.gather(*(outcome(person) for person in people))
    assert sorted(outcomes) == ["ACCOUNT_LINKED_ELSEWHERE"] * 7 + ["linked"]
    assert sum([len(await list_all(stub, person)) for person in people]) == 1


async def test_of_one_users_links_at_once_all_are_the_same_one(suite: Suite, stub: Any, product: Backend) -> None:
    ada = await suite.person()
    account = account_of(ada.user_id)
    linked = await asyncio.gather(*(link(stub, product, account) for _ in range(8)))
    assert len({one.account_id for one in linked}) == 1


async def test_nobody_links_to_a_user_that_there_is_not(stub: Any, product: Backend) -> None:
    request = pb.LinkAccountRequest(account=account_of(str(uuid.uuid4())))
    assert (await refused(product.call(stub.LinkAccount, request))).code == grpc.StatusCode.NOT_FOUND


async def test_linking_is_for_service_accounts_of_that_scope(suite: Suite, stub: Any, product: Backend) -> None:
    ada = await suite.person()
    other = await backend(suite, "identity.adapter")
    request = pb.LinkAccountRequest(account=account_of(ada.user_id))
    for caller in (ada, other):
        refusal = await refused(caller.call(stub.LinkAccount, request))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    await product.call(stub.LinkAccount, request)


async def test_a_repeated_link_is_the_stored_answer(suite: Suite, stub: Any, product: Backend) -> None:
    ada, request_id = await suite.person(), str(uuid.uuid4())
    account = account_of(ada.user_id)
    linked = await link(stub, product, account, request_id)
    await unlink(stub, ada, linked)
    assert await link(stub, product, account, request_id) == linked
    assert await list_all(stub, ada) == []


async def test_an_account_is_unlinked_once(suite: Suite, stub: Any, product: Backend) -> None:
    ada, request_id = await suite.person(), str(uuid.uuid4())
    linked = await link(stub, product, account_of(ada.user_id, refresh_token="r"))
    await unlink(stub, ada, linked, request_id)
    await unlink(stub, ada, linked, request_id)
    assert await list_all(stub, ada) == []
    assert kinds_of(suite, ada.user_id).count("account_unlinked") == 1
    assert (await refused(unlink(stub, ada, linked))).code == grpc.StatusCode.NOT_FOUND
    assert execute(suite, "SELECT id FROM accounts WHERE id = %s", linked.account_id) == []


async def test_anothers_account_and_an_unknown_one_are_refused_alike(suite: Suite, stub: Any, product: Backend) -> None:
    ada, ben = await suite.person(), await suite.person("Ben")
    linked = await link(stub, product, account_of(ada.user_id))
    refusals = [
        await refused(unlink(stub, ben, account)) for account in (linked, pb.Account(account_id=str(uuid.uuid4())))
    ]
    assert refusals[0] == refusals[1]
    assert refusals[0].code == grpc.StatusCode.NOT_FOUND
    assert await list_all(stub, ada) == [linked]


async def test_who_has_no_password_keeps_their_last_account(suite: Suite, stub: Any, product: Backend) -> None:
    ada = await suite.person()
    take_password(suite, ada)
    first, second = [await link(stub, product, account_of(ada.user_id, provider)) for provider in ("a", "b")]
    await unlink(stub, ada, first)
    refusal = await refused(unlink(stub, ada, second))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LAST_CREDENTIAL")
    assert await list_all(stub, ada) == [second]
    assert kinds_of(suite, ada.user_id).count("account_unlinked") == 1


async def test_a_password_of_an_unproven_address_is_no_credential(suite: Suite, stub: Any, product: Backend) -> None:
    ada = await suite.person()
    linked = await link(stub, product, account_of(ada.user_id))
    execute(suite, "UPDATE users SET email_verified_at = NULL WHERE id = %s", ada.user_id)
    assert (await refused(unlink(stub, ada, linked))).reason == "LAST_CREDENTIAL"
    execute(suite, "UPDATE users SET email_verified_at = statement_timestamp() WHERE id = %s", ada.user_id)
    await unlink(stub, ada, linked)


async def test_of_two_who_unlink_the_last_two_at_once_one_is_refused(suite: Suite, stub: Any, product: Backend) -> None:
    for _ in range(10):
        ada = await suite.person()
        take_password(suite, ada)
        linked = [await link(stub, product, account_of(ada.user_id, provider)) for provider in ("a", "b")]

        async def outcome(account: pb.Account, person: Person = ada) -> str:
            try:
                await unlink(stub, person, account)
            except grpc.aio.AioRpcError as error:
                return refusal_of(error).reason
            return "unlinked"

        assert sorted(await asyncio.gather(*map(outcome, linked))) == ["LAST_CREDENTIAL", "unlinked"]
        assert len(await list_all(stub, ada)) == 1


async def test_no_token_of_a_provider_is_in_the_database_in_clear(suite: Suite, stub: Any, product: Backend) -> None:
    ada = await suite.person()
    tokens = {name: f"canary-{name}-{uuid.uuid4().hex}" for name in TOKENS}
    linked = await link(stub, product, account_of(ada.user_id, **tokens), str(uuid.uuid4()))
    tables = execute(suite, "SELECT tablename FROM pg_tables WHERE schemaname = 'identity'")
    rows = [execute(suite, f"SELECT CAST(t AS text) FROM {name} t") for (name,) in tables]
    stored = "\n".join(text for table in rows for (text,) in table)
    assert linked.account_id in stored
    for token in tokens.values():
        assert token not in stored
        assert token.encode().hex() not in stored
    [sealed] = execute(
        suite,
        "SELECT sealed_refresh_token, sealed_access_token, sealed_id_token FROM accounts WHERE id = %s",
        linked.account_id,
    )
    key = Fernet(keys_file(suite).read_text().split()[0])
    assert [key.decrypt(bytes(one)).decode() for one in sealed] == list(tokens.values())


async def test_a_row_says_which_key_sealed_it_exactly_if_something_is_sealed(
    suite: Suite, stub: Any, product: Backend
) -> None:
    ada = await suite.person()
    bare = await link(stub, product, account_of(ada.user_id))
    sealed = await link(stub, product, account_of(ada.user_id, id_token="i"))
    query = "SELECT sealed_by FROM accounts WHERE id = ANY(CAST(%s AS uuid[])) ORDER BY id"
    [(of_bare,), (of_sealed,)] = execute(suite, query, [bare.account_id, sealed.account_id])
    assert of_bare is None
    assert len(of_sealed) == 8


async def test_a_new_key_seals_at_once_and_the_old_one_can_go_after_the_sweep(
    suite: Suite, stub: Any, product: Backend
) -> None:
    ada, database = await suite.person(), suite.frames["identity"].database
    file = keys_file(suite)
    tokens = dict.fromkeys(TOKENS, "a token")
    old = [await link(stub, product, account_of(ada.user_id, **tokens)) for _ in range(3)]
    new_key, before = Fernet.generate_key().decode(), file.read_text()

    file.write_text(f"{new_key}\n{before}")
    new = await link(stub, product, account_of(ada.user_id, access_token="a token"))
    assert opened_by(suite, new_key, new) == ["a token"]
    with pytest.raises(InvalidToken):
        opened_by(suite, new_key, old[0])

    await reseal_accounts(database, Seals(file))
    file.write_text(f"{new_key}\n")
    for account in old:
        assert opened_by(suite, new_key, account) == ["a token"] * 3
    [(left,)] = execute(suite, "SELECT count(*) FROM accounts WHERE sealed_by <> %s", Seals(file).ring().seal_id)
    assert left == 0


async def test_the_sweep_takes_many_batches_and_passes_over_what_no_key_opens(
    suite: Suite, stub: Any, product: Backend
) -> None:
    ada, database = await suite.person(), suite.frames["identity"].database
    seals = Seals(keys_file(suite))
    lost = await link(stub, product, account_of(ada.user_id, access_token="lost"))
    foreign = Fernet(Fernet.generate_key()).encrypt(b"of a key that is gone")
    execute(
        suite,
        "UPDATE accounts SET sealed_access_token = %s, sealed_by = %s WHERE id = %s",
        foreign,
        b"\x00" * 8,
        lost.account_id,
    )
    good = seals.ring().seal("a token")
    execute(
        suite,
        """INSERT INTO accounts (id, user_id, type, provider, provider_account_id, sealed_access_token, sealed_by)
        SELECT gen_random_uuid(), %s, 'oauth', 'many', %s || n, %s, %s FROM generate_series(1, %s) n""",
        ada.user_id,
        uuid.uuid4().hex,
        good,
        b"\x01" * 8,
        2 * BATCH + 1,
    )
    await reseal_accounts(database, seals)
    query = "SELECT count(*) FROM accounts WHERE user_id = %s AND sealed_by = %s"
    [(resealed,)] = execute(suite, query, ada.user_id, seals.ring().seal_id)
    assert resealed == 2 * BATCH + 1
    [(kept,)] = execute(suite, "SELECT sealed_access_token FROM accounts WHERE id = %s", lost.account_id)
    assert bytes(kept) == foreign
    execute(suite, "DELETE FROM accounts WHERE user_id = %s", ada.user_id)


def opened_by(suite: Suite, key: str, account: pb.Account) -> list[str]:
    """What a key alone opens of an account's tokens."""
    [row] = execute(
        suite,
        "SELECT sealed_refresh_token, sealed_access_token, sealed_id_token FROM accounts WHERE id = %s",
        account.account_id,
    )
    return [Fernet(key).decrypt(bytes(sealed)).decode() for sealed in row if sealed is not None]
