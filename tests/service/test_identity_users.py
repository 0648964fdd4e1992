"""Oneself and others: reading, changing, listing, disabling."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import session_service_pb2 as sessions
from guildhall.identity.v1 import session_service_pb2_grpc as sessions_rpc
from guildhall.identity.v1 import user_service_pb2 as pb
from guildhall.identity.v1 import user_service_pb2_grpc as rpc

from services.identity import profiles
from tests.support.administrators import administrator, only_administrators
from tests.support.suite import PASSWORD, Person, Suite, refused

ROUNDS = 5


@pytest.fixture
def users(suite: Suite) -> Any:
    return suite.stub(rpc.UserServiceStub)


async def me(users: Any, person: Person) -> pb.User:
    """What GetUser answers to somebody."""
    user = (await person.call(users.GetUser, pb.GetUserRequest())).user
    assert isinstance(user, pb.User)
    return user


def change(*paths: str, **fields: str) -> pb.UpdateUserRequest:
    """UpdateUser of the fields that are given, or of `paths`."""
    named = {name for name in fields if name not in ("etag", "request_id")}
    return pb.UpdateUserRequest(update_mask=FieldMask(paths=paths or sorted(named)), **fields)


def new_address() -> str:
    return f"new-{uuid.uuid4().hex[:12]}@example.com"


async def sign_in(suite: Suite, address: str) -> Any:
    request = auth.SignInRequest(email=address, password=PASSWORD)
    return await suite.stub(auth_rpc.AuthServiceStub).SignIn(request, timeout=10)


async def verify(suite: Suite, token: str) -> Any:
    return await suite.stub(auth_rpc.AuthServiceStub).VerifyEmail(auth.VerifyEmailRequest(token=token), timeout=10)


async def test_people_see_themselves_whole(suite: Suite, users: Any) -> None:
    person = await suite.person("Ada")
    user = await me(users, person)
    assert (user.user_id, user.email, user.name, user.image_url) == (person.user_id, person.email, "Ada", "")
    assert user.HasField("email_verify_time")
    assert user.HasField("create_time")
    assert user.HasField("update_time")
    assert user.etag
    assert user.has_password
    assert not user.system_admin
    assert not user.HasField("disable_time")
    assert not user.normalized_email


async def test_other_services_are_told_no_more_of_people_than_they_need(suite: Suite, users: Any) -> None:
    person = await suite.person("Ada")
    stub = suite.stub(rpc.UserServiceStub, certificate="membership")
    (user,) = (await stub.BatchGetUsers(pb.BatchGetUsersRequest(user_ids=[person.user_id]), timeout=10)).users
    told = {field.name for field, _ in user.ListFields()}
    assert told == {"user_id", "email", "name", "email_verify_time", "create_time", "normalized_email"}


async def test_only_what_the_mask_names_changes_and_the_etag_with_it(suite: Suite, users: Any) -> None:
    person = await suite.person("Ada")
    before = await me(users, person)
    request = change("name", name="Ada L.", image_url="https://example.com/a.png")
    named = (await person.call(users.UpdateUser, request)).user
    assert (named.name, named.image_url, named.email) == ("Ada L.", "", person.email)
    assert named.etag != before.etag
    assert named.update_time.ToDatetime() > before.update_time.ToDatetime()
    pictured = (await person.call(users.UpdateUser, change(image_url="https://example.com/a.png"))).user
    assert (pictured.name, pictured.image_url) == ("Ada L.", "https://example.com/a.png")
    assert (await person.call(users.UpdateUser, change("image_url"))).user.image_url == ""
    assert (await me(users, person)).etag not in (before.etag, named.etag, pictured.etag)


async def test_an_older_etag_changes_nothing(suite: Suite, users: Any) -> None:
    person = await suite.person("Ada")
    etag = (await me(users, person)).etag
    assert (await person.call(users.UpdateUser, change(name="First", etag=etag))).user.name == "First"
    refusal = await refused(person.call(users.UpdateUser, change(name="Second", etag=etag)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (await me(users, person)).name == "First"


@pytest.mark.parametrize("paths", [[], ["*"], ["user_id"], ["system_admin"], ["name.first"], ["unknown"]])
async def test_a_mask_that_names_anything_else_is_refused(suite: Suite, users: Any, paths: list[str]) -> None:
    person = await suite.person("Ada")
    request = pb.UpdateUserRequest(update_mask=FieldMask(paths=paths), name="Eve")
    assert (await refused(person.call(users.UpdateUser, request))).reason == "INVALID_REQUEST"
    assert (await me(users, person)).name == "Ada"


async def test_a_repeated_change_is_done_once(suite: Suite, users: Any) -> None:
    person = await suite.person("Ada")
    etag, key = (await me(users, person)).etag, str(uuid.uuid4())
    first = await person.call(users.UpdateUser, change(name="Once", etag=etag, request_id=key))
    assert await person.call(users.UpdateUser, change(name="Once", etag=etag, request_id=key)) == first
    refusal = await refused(person.call(users.UpdateUser, change(name="Twice", request_id=key)))
    assert refusal.reason == "IDEMPOTENCY_MISMATCH"


async def test_each_key_of_each_person_and_rpc_stands_for_its_own_answer(suite: Suite, users: Any) -> None:
    people = [await suite.person("Ada"), await suite.person("Bob")]
    keys = [str(uuid.uuid4()), str(uuid.uuid4())]
    sessions_stub = suite.stub(sessions_rpc.SessionServiceStub)

    async def answers() -> list[Any]:
        given = []
        for number, key in enumerate(keys):
            for person in people:
                request = change(name=f"{person.name} {number}", request_id=key)
                given.append(await person.call(users.UpdateUser, request))
            revoke = sessions.RevokeSessionsRequest(keep_current=True, request_id=key)
            given.append(await people[0].call(sessions_stub.RevokeSessions, revoke))
        return given

    first = await answers()

    assert await answers() == first
    assert [answer.user.name for answer in first if hasattr(answer, "user")] == ["Ada 0", "Bob 0", "Ada 1", "Bob 1"]


async def test_a_new_address_counts_once_it_is_proven_and_the_old_one_is_told(suite: Suite, users: Any) -> None:
    person, address = await suite.person("Ada"), new_address()
    answer = await person.call(users.UpdateUser, change(email=address))
    assert answer.pending_email_change
    assert answer.user.email == person.email
    token = await suite.mailed_token(address)
    assert (await refused(sign_in(suite, address))).reason == "INVALID_CREDENTIALS"
    assert (await sign_in(suite, person.email)).user.user_id == person.user_id

    await verify(suite, token)

    assert (await sign_in(suite, address)).user.user_id == person.user_id
    assert (await refused(sign_in(suite, person.email))).reason == "INVALID_CREDENTIALS"
    assert len(await suite.mails(person.email, count=2)) == 2


async def test_an_address_that_somebody_has_is_answered_the_same_and_its_owner_is_told(
    suite: Suite, users: Any
) -> None:
    person, owner = await suite.person("Ada"), await suite.person("Bob")
    unknown = await person.call(users.UpdateUser, change(email=new_address()))
    known = await person.call(users.UpdateUser, change(email=owner.email.upper()))
    assert known.SerializeToString(deterministic=True) == unknown.SerializeToString(deterministic=True)
    mails = await suite.mails(owner.email, count=2)
    assert "Token:" not in mails[-1]
    assert (await me(users, owner)).email == owner.email


async def test_another_spelling_of_the_own_address_needs_no_proof(suite: Suite, users: Any) -> None:
    person = await suite.person("Ada")
    answer = await person.call(users.UpdateUser, change(email=person.email.upper()))
    assert (answer.user.email, answer.pending_email_change) == (person.email.upper(), False)
    assert (await sign_in(suite, person.email)).user.user_id == person.user_id


async def test_of_two_new_addresses_only_the_last_can_be_proven(suite: Suite, users: Any) -> None:
    person, first, second = await suite.person("Ada"), new_address(), new_address()
    await person.call(users.UpdateUser, change(email=first))
    old_token = await suite.mailed_token(first)
    await person.call(users.UpdateUser, change(email=second))
    token = await suite.mailed_token(second)
    assert (await refused(verify(suite, old_token))).reason == "TOKEN_INVALID"
    assert (await verify(suite, token)).user.email == second


async def test_a_change_of_address_is_in_the_security_log(suite: Suite, users: Any) -> None:
    person = await suite.person("Ada")
    await person.call(users.UpdateUser, change(email=new_address()))
    kinds = [event.kind for event in await security_events(suite, person)]
    assert sessions.SECURITY_EVENT_KIND_EMAIL_CHANGE_REQUESTED in kinds


async def security_events(suite: Suite, reader: Person, user_id: str = "") -> list[sessions.SecurityEvent]:
    """A security log, newest entry first."""
    stub = suite.stub(sessions_rpc.SessionServiceStub)
    answer = await reader.call(stub.ListSecurityEvents, sessions.ListSecurityEventsRequest(user_id=user_id))
    return list(answer.events)


async def listed(users: Any, root: Person, **filters: Any) -> list[pb.User]:
    """Every user of a list, in pages of three."""
    found: list[pb.User] = []
    token = ""
    while True:
        request = pb.ListUsersRequest(page_size=3, page_token=token, **filters)
        page = await root.call(users.ListUsers, request)
        assert len(page.users) <= 3
        found += page.users
        token = page.next_page_token
        if not token:
            return found


async def test_pages_of_users_join_to_everybody_whose_address_begins_so(suite: Suite, users: Any) -> None:
    root, prefix = await administrator(suite), f"zz{uuid.uuid4().hex[:8]}"
    with suite.database("identity") as database:
        for number in range(7):
            address = f"{prefix}-{number}@example.com"
            database.execute(
                "INSERT INTO users (id, email, normalized_email, name, disabled_at) VALUES (%s, %s, %s, 'P', "
                "CASE WHEN %s THEN statement_timestamp() END)",
                [str(uuid.uuid4()), address.upper(), address, number == 3],
            )
    everybody = [f"{prefix}-{number}@example.com".upper() for number in range(7)]
    found = await listed(users, root, email_prefix=prefix.upper(), show_disabled=True)
    assert [user.email for user in found] == everybody
    assert [user.HasField("disable_time") for user in found] == [number == 3 for number in range(7)]
    enabled = await listed(users, root, email_prefix=prefix)
    assert [user.email for user in enabled] == everybody[:3] + everybody[4:]
    assert not any(user.HasField("has_password") for user in found)
    assert await listed(users, root, email_prefix=f"{prefix}%") == []


async def test_everybody_is_listed_in_the_order_in_which_they_were_made(suite: Suite, users: Any) -> None:
    root = await administrator(suite)
    people = [await suite.person("Ada") for _ in range(2)]
    ids = [user.user_id for user in await listed(users, root, show_disabled=True)]
    assert ids == sorted(ids)
    assert [user_id for user_id in ids if user_id in {root.user_id, *(p.user_id for p in people)}] == [
        root.user_id,
        *(person.user_id for person in people),
    ]


async def test_a_page_token_is_good_for_its_own_list_only(suite: Suite, users: Any) -> None:
    root, other = await administrator(suite), await administrator(suite)
    token = (await root.call(users.ListUsers, pb.ListUsersRequest(page_size=1))).next_page_token
    assert (await root.call(users.ListUsers, pb.ListUsersRequest(page_token=token))).users
    elsewhere = pb.ListUsersRequest(page_token=token, show_disabled=True)
    for person, request in ((root, elsewhere), (other, pb.ListUsersRequest(page_token=token))):
        assert set((await refused(person.call(users.ListUsers, request))).fields) == {"page_token"}


async def test_pages_of_a_large_table_are_read_from_an_index(suite: Suite) -> None:
    pages = {
        profiles.LIST: {"after": profiles.FIRST},
        profiles.LIST_BY_ADDRESS: {"after": "", "prefix": "many-1"},
    }
    with suite.database("identity_owner") as database, database.transaction(force_rollback=True):
        database.execute(
            "INSERT INTO users (id, email, normalized_email, name) SELECT gen_random_uuid(), "
            "'many-' || number || '@example.com', 'many-' || number || '@example.com', '' "
            "FROM generate_series(1, 20000) AS number"
        )
        database.execute("ANALYZE users")
        for statement, parameters in pages.items():
            page = {**parameters, "size": 51, "show_disabled": True}
            text = str(statement).replace("%", "%%")
            for name in page:
                text = text.replace(f":{name}", f"%({name})s")
            plan = "\n".join(line for (line,) in database.execute(f"EXPLAIN {text}".encode(), page))
            assert "Index Scan" in plan, plan
            assert "Sort" not in plan, plan


async def test_who_is_no_administrator_is_refused_before_anything_is_looked_up(suite: Suite, users: Any) -> None:
    person, other = await suite.person("Ada"), await suite.person("Bob")
    for known in (other.user_id, str(uuid.uuid4())):
        refusals = [
            await refused(person.call(users.DisableUser, pb.DisableUserRequest(user_id=known))),
            await refused(person.call(users.EnableUser, pb.EnableUserRequest(user_id=known))),
            await refused(person.call(users.DeleteUser, pb.DeleteUserRequest(user_id=known))),
            await refused(person.call(users.ListUsers, pb.ListUsersRequest(page_token="none"))),
        ]
        assert len({refusal.raw for refusal in refusals}) == 1
        assert refusals[0].reason == "PERMISSION_DENIED"
    root = await administrator(suite)
    unknown = pb.DisableUserRequest(user_id=str(uuid.uuid4()))
    assert (await refused(root.call(users.DisableUser, unknown))).reason == "NOT_FOUND"


async def test_who_is_disabled_is_out_at_once_until_enabled(suite: Suite, users: Any) -> None:
    root, person = await administrator(suite), await suite.person("Ada")
    await me(users, person)

    disabled = (await root.call(users.DisableUser, pb.DisableUserRequest(user_id=person.user_id))).user

    assert disabled.HasField("disable_time")
    assert (await refused(person.call(users.GetUser, pb.GetUserRequest()))).reason == "SESSION_ENDED"
    assert (await refused(sign_in(suite, person.email))).reason == "INVALID_CREDENTIALS"
    again = (await root.call(users.DisableUser, pb.DisableUserRequest(user_id=person.user_id))).user
    assert again == disabled

    enabled = (await root.call(users.EnableUser, pb.EnableUserRequest(user_id=person.user_id))).user

    assert not enabled.HasField("disable_time")
    assert (await refused(person.call(users.GetUser, pb.GetUserRequest()))).reason == "SESSION_ENDED"
    back = await suite.signed_in(person.email)
    assert (await me(users, back)).etag == enabled.etag != disabled.etag
    logged = {event.kind: event for event in await security_events(suite, root, person.user_id)}
    for kind in (sessions.SECURITY_EVENT_KIND_USER_DISABLED, sessions.SECURITY_EVENT_KIND_USER_ENABLED):
        assert kind in logged


async def test_disabling_compares_the_etag(suite: Suite, users: Any) -> None:
    root, person = await administrator(suite), await suite.person("Ada")
    etag = (await me(users, person)).etag
    await person.call(users.UpdateUser, change(name="Bea"))
    old = pb.DisableUserRequest(user_id=person.user_id, etag=etag)
    assert (await refused(root.call(users.DisableUser, old))).reason == "ETAG_MISMATCH"
    current = pb.DisableUserRequest(user_id=person.user_id, etag=(await me(users, person)).etag)
    assert (await root.call(users.DisableUser, current)).user.HasField("disable_time")
    enable = pb.EnableUserRequest(user_id=person.user_id, etag=etag)
    assert (await refused(root.call(users.EnableUser, enable))).reason == "ETAG_MISMATCH"


async def test_the_last_administrator_cannot_be_disabled_but_one_of_two_can(suite: Suite, users: Any) -> None:
    root, other = await administrator(suite), await administrator(suite)
    request = pb.DisableUserRequest(user_id=root.user_id)
    with only_administrators(suite, root, other):
        await other.call(users.DisableUser, request)
        own = pb.DisableUserRequest(user_id=other.user_id)
        refusal = await refused(other.call(users.DisableUser, own))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LAST_ADMINISTRATOR")
        assert (await me(users, other)).system_admin


async def test_two_administrators_who_disable_each_other_leave_one(suite: Suite, users: Any) -> None:
    pair = [await administrator(suite), await administrator(suite)]
    with only_administrators(suite, *pair):
        for _ in range(ROUNDS):
            one, two = pair
            answers = await asyncio.gather(
                one.call(users.DisableUser, pb.DisableUserRequest(user_id=two.user_id)),
                two.call(users.DisableUser, pb.DisableUserRequest(user_id=one.user_id)),
                return_exceptions=True,
            )
            done = [index for index, answer in enumerate(answers) if isinstance(answer, pb.DisableUserResponse)]
            assert len(done) == 1, answers
            left = pair[done[0]]
            for person in pair:
                request = pb.EnableUserRequest(user_id=person.user_id)
                await left.call(users.EnableUser, request)
            pair = [await suite.signed_in(person.email) for person in pair]
