"""People who are deleted or disabled: nothing names them any more, and everything they ran goes on."""

import asyncio
import uuid
from typing import Any

import pytest
import uuid_utils
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.membership.v1 import activity_service_pb2 as activities_pb
from guildhall.membership.v1 import activity_service_pb2_grpc as activity_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc
from sqlalchemy.ext.asyncio import AsyncConnection

from services.membership import activities, erasures, handles, workspaces
from services.membership import members as membership
from services.membership.activities import Activity
from tests.service.test_membership_groups import Place, new_place
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.accounts import service_account
from tests.support.deliveries import deliver, until
from tests.support.suite import Person, Suite, refused

KEPT_FOR_A_WEEK = "departed_users"
COLUMNS = """
    SELECT table_name, column_name FROM information_schema.columns
    WHERE table_schema = 'membership' AND data_type IN ('uuid', 'text', 'jsonb', 'ARRAY', 'character varying')
"""


def deleted(person: Person) -> events.Event:
    """What identity tells."""
    return events.Event(user_deleted=events.UserDeleted(user_id=person.user_id))


def disabled(person: Person) -> events.Event:
    """What identity tells."""
    return events.Event(user_disabled=events.UserDisabled(user_id=person.user_id))


def places_of(suite: Suite, text: str) -> set[str]:
    """The tables of the schema in which a text stands."""
    found = set()
    with suite.database("membership_owner") as database:
        for table, column in database.execute(COLUMNS).fetchall():
            query = f'SELECT count(*) FROM membership."{table}" WHERE "{column}"::text ILIKE %s'
            if database.execute(query, (f"%{text}%",)).fetchone() != (0,):
                found.add(f"{table}.{column}")
    return found


async def erased(suite: Suite, person: Person) -> None:
    """Has identity delete somebody, and waits until the worker is done."""
    await deliver(suite, deleted(person), source="identity")
    await worked_off(suite)


async def worked_off(suite: Suite) -> None:
    """Waits until the worker has nothing to do about people, but what is to be done later."""

    def nothing_left() -> bool:
        with suite.database("membership") as database:
            query = (
                "SELECT count(*) FROM outbox WHERE target = 'worker' AND kind <> ALL(%s)"
                " AND created_at <= statement_timestamp()"
            )
            return database.execute(query, (["mail.invitation", "group_ban.ended"],)).fetchone() == (0,)

    await until(nothing_left)


def rows(suite: Suite, query: str, *values: Any) -> list[Any]:
    """What a query finds."""
    with suite.database("membership") as database:
        return database.execute(query, values).fetchall()


def roles(workspace: Workspace) -> dict[str, str]:
    """Who is what, by user id."""
    query = "SELECT user_id::text, role FROM members WHERE workspace_id = %s"
    return dict(rows(workspace.suite, query, workspace.id))


async def verified(workspace: Workspace) -> Any:
    """What VerifyActivityChain answers to the admin."""
    stub = workspace.suite.stub(activity_rpc.ActivityServiceStub)
    request = activities_pb.VerifyActivityChainRequest(workspace_id=workspace.id)
    return await workspace.admin.call(stub.VerifyActivityChain, request)


async def full_life(suite: Suite, bob: Person, place: Place) -> list[Workspace]:
    """Somebody who has left traces in every table that may name a person; returns their workspaces."""
    stub = suite.stub(member_rpc.MemberServiceStub)
    workspace = place.workspace
    member_id = await workspace.join(bob)
    titled = members.Member(workspace_id=place.id, member_id=member_id, handle="bobby", title="Carpenter")
    mask = FieldMask(paths=["handle", "title"])
    request_id = str(uuid.uuid4())
    update = members.UpdateMemberRequest(member=titled, update_mask=mask, request_id=request_id)
    await bob.call(stub.UpdateMember, update)
    group = await place.create("Bobs", by=bob)
    _eve, eve_id = await place.newcomer("Eve")
    await place.add(group, eve_id, "member", by=bob)
    await refused(workspace.invite("nobody@example.com", by=bob))
    own, elsewhere = await new_workspace(suite, bob), await new_workspace(suite)
    suspended_id = await elsewhere.join(bob)
    suspend = members.SuspendMemberRequest(workspace_id=elsewhere.id, member_id=suspended_id, reason="Bob was loud")
    await elsewhere.admin.call(stub.SuspendMember, suspend)
    pending, banning = await new_workspace(suite), await new_workspace(suite)
    await pending.add_guest(bob)
    ban = members.BanMemberRequest(workspace_id=banning.id, user_id=bob.user_id, reason="Bob again")
    await banning.admin.call(stub.BanMember, ban)
    other = await place.create("Without Bob")
    await place.bans("BanUser", group_id=other.group_id, user_id=bob.user_id, reason="not in here")
    return [own, elsewhere, pending, banning]


async def test_a_deleted_person_is_in_no_table_and_every_chain_is_whole(suite: Suite) -> None:
    bob, place = await suite.person("Bob"), await new_place(suite)
    workspaces_of_bob = [place.workspace, *await full_life(suite, bob, place)]
    count = "SELECT workspace_id::text, count(*) FROM activities WHERE workspace_id = ANY(%s::uuid[]) GROUP BY 1"
    before = dict(rows(suite, count, [each.id for each in workspaces_of_bob]))
    assert {place.split(".")[0] for place in places_of(suite, bob.user_id)} >= {
        "members",
        "workspaces",
        "workspace_bans",
        "group_bans",
        "activity_people",
        "idempotency_keys",
    }

    await erased(suite, bob)

    assert {place.split(".")[0] for place in places_of(suite, bob.user_id)} <= {KEPT_FOR_A_WEEK}
    assert not places_of(suite, bob.email)
    after = dict(rows(suite, count, list(before)))
    assert all(after[each] >= number for each, number in before.items())
    assert after[place.id] > before[place.id]
    for workspace in workspaces_of_bob:
        if workspace.admin is not bob:
            answer = await verified(workspace)
            assert (answer.intact, answer.verified_number) == (True, answer.head_number)
    details = (
        "SELECT count(*) FROM activity_details WHERE workspace_id = ANY(%s::uuid[])"
        " AND body::text ~ 'Carpenter|Bob was loud|Bob again|bobby'"
    )
    assert rows(suite, details, list(before)) == [(0,)]


async def test_the_log_shows_a_deleted_persons_activities_without_the_person(suite: Suite) -> None:
    bob, place = await suite.person("Bob"), await new_place(suite)
    await full_life(suite, bob, place)
    stub = suite.stub(activity_rpc.ActivityServiceStub)
    request = activities_pb.ListActivitiesRequest(workspace_id=place.id, page_size=200)
    before = (await place.workspace.admin.call(stub.ListActivities, request)).activities
    theirs = {one.number for one in before if one.actor_user_id == bob.user_id}
    assert theirs

    await erased(suite, bob)

    after = (await place.workspace.admin.call(stub.ListActivities, request)).activities
    assert {one.number for one in after} > {one.number for one in before}
    hashes = {one.number: one.hash for one in after}
    assert all(hashes[one.number] == one.hash for one in before)
    for one in after:
        if one.number in theirs:
            assert (one.actor_user_id, one.actor_name, one.session_id, one.client_address) == ("", "", "", "")
    assert after[0].number == max(hashes)


async def test_a_deleted_sole_admin_is_succeeded_and_a_sole_owner_too(suite: Suite) -> None:
    eve, place = await suite.person("Eve"), Place(suite, await new_workspace(suite, await suite.person("Ada")))
    ada = place.workspace.admin
    eve_id = await place.workspace.join(eve)
    group = await place.create("Ours")
    await place.add(group, eve_id, "member")
    revision = await place.workspace.revision()

    await erased(suite, ada)

    assert roles(place.workspace) == {eve.user_id: "admin"}
    owner = rows(suite, "SELECT member_id::text, role FROM group_members WHERE group_id = %s", group.group_id)
    assert owner == [(eve_id, "owner")]
    assert await place.workspace.revision() == revision + 1


async def test_a_workspace_that_nobody_is_left_in_is_archived(suite: Suite) -> None:
    ada = await suite.person("Ada")
    workspace = await new_workspace(suite, ada)

    await erased(suite, ada)

    assert roles(workspace) == {}
    archived = "SELECT archived_at IS NOT NULL, created_by FROM workspaces WHERE id = %s"
    assert rows(suite, archived, workspace.id) == [(True, None)]


async def test_a_deletion_delivered_three_times_ends_a_stay_once(suite: Suite) -> None:
    workspace, bob = await new_workspace(suite), await suite.person("Bob")
    await workspace.join(bob)
    revision = await workspace.revision()

    await deliver(suite, deleted(bob), source="identity", times=3)
    await deliver(suite, deleted(bob), source="identity")
    await worked_off(suite)

    assert await workspace.revision() == revision + 1
    removed = "SELECT count(*) FROM activities WHERE workspace_id = %s AND action = 'member.removed'"
    assert rows(suite, removed, workspace.id) == [(1,)]


async def test_only_identity_tells_of_deletions(suite: Suite) -> None:
    bob = await somebody(suite, "Bob")
    for certificate in ("guest", "messaging"):
        sink = suite.sink("membership", certificate=certificate)
        for event in (deleted(bob), disabled(bob)):
            event.event_id = str(uuid.uuid4())
            request = events.DeliverEventsRequest(events=[event])
            assert (await refused(sink.DeliverEvents(request, timeout=10))).reason == "PEER_NOT_ALLOWED"


async def test_a_disabled_person_loses_the_admin_role_and_what_they_own_but_stays(suite: Suite) -> None:
    ada, eve = await suite.person("Ada"), await suite.person("Eve")
    place = Place(suite, await new_workspace(suite, ada))
    eve_id = await place.workspace.join(eve)
    group, alone = await place.create("Ours"), await place.create("Mine")
    await place.add(group, eve_id, "member")
    revision = await place.workspace.revision()

    await deliver(suite, disabled(ada), source="identity")
    await worked_off(suite)

    assert roles(place.workspace) == {ada.user_id: "member", eve.user_id: "admin"}
    held = "SELECT member_id::text, role FROM group_members WHERE group_id = %s ORDER BY role"
    (ada_id,) = {place.workspace.admin_member_id}
    assert dict(rows(suite, held, group.group_id))[eve_id] == "owner"
    assert dict(rows(suite, held, group.group_id))[ada_id] != "owner"
    archived = "SELECT archived_at IS NOT NULL FROM groups WHERE id = %s"
    assert rows(suite, archived, alone.group_id) == [(True,)]
    assert await place.workspace.revision() == revision + 1
    place.workspace.admin = eve
    assert (await verified(place.workspace)).intact


async def test_disabling_a_plain_member_takes_nothing(suite: Suite) -> None:
    workspace, bob = await new_workspace(suite), await suite.person("Bob")
    await workspace.join(bob)
    revision = await workspace.revision()

    await deliver(suite, disabled(bob), source="identity")
    await worked_off(suite)

    assert roles(workspace)[bob.user_id] == "member"
    assert await workspace.revision() == revision


async def _accept(place: Place, person: Person) -> Any:
    await place.workspace.accept(person, await place.workspace.invite(person.email))


async def _add(place: Place, person: Person) -> Any:
    account = service_account(place.suite, "membership.members")
    request = members.AddMemberRequest(workspace_id=place.id, user_id=person.user_id, role=members.ROLE_MEMBER)
    await account.call(place.suite.stub(member_rpc.MemberServiceStub).AddMember, request)


async def _redeem(place: Place, person: Person) -> Any:
    group = await place.create("Open")
    invite = await place.codes(
        "CreateGroupInvite", group_id=group.group_id, role="member", workspace_role=members.ROLE_MEMBER
    )
    await place.codes("RedeemGroupInvite", by=person, code=invite.group_invite.code)


async def _visit(place: Place, person: Person) -> Any:
    await place.workspace.add_guest(person)


@pytest.mark.parametrize("join", [_accept, _add, _redeem, _visit])
async def test_who_was_deleted_a_moment_ago_cannot_join_by_any_way(join: Any, suite: Suite) -> None:
    bob, eve = await suite.person("Bob"), await somebody(suite, "Eve")
    place = await new_place(suite)
    await join(place, eve)
    await deliver(suite, deleted(bob), source="identity")

    assert (await refused(join(place, bob))).reason == "NOT_FOUND"

    assert bob.user_id not in roles(place.workspace)
    assert eve.user_id in roles(place.workspace)


async def test_a_call_that_was_let_in_before_the_deletion_leaves_nothing_behind(suite: Suite) -> None:
    workspace, bob = await new_workspace(suite), await suite.person("Bob")
    database = suite.frames["membership"].database
    has_joined, is_deleted = asyncio.Event(), asyncio.Event()

    async def join(tx: AsyncConnection) -> None:
        await workspaces.lock(tx, workspace.id)
        await membership.join(tx, workspace_id=workspace.id, user_id=bob.user_id, role="member")
        done = Activity("member.joined", "member", target_user_id=bob.user_id, reason="Bob insisted")
        await activities.record(tx, workspace.id, [done], origin=activities.Origin(bob.user_id, user_agent="Bobs own"))
        has_joined.set()
        await is_deleted.wait()

    joining = asyncio.create_task(database.transaction(join))
    await has_joined.wait()
    await deliver(suite, deleted(bob), source="identity")
    is_deleted.set()
    await joining
    assert bob.user_id in roles(workspace)

    await erasures.sweep(database)
    await worked_off(suite)

    assert {place.split(".")[0] for place in places_of(suite, bob.user_id)} <= {KEPT_FOR_A_WEEK}
    assert rows(suite, "SELECT count(*) FROM activity_details WHERE body::text ~ 'Bob insisted|Bobs own'") == [(0,)]
    assert (await verified(workspace)).intact


async def test_one_who_cannot_be_erased_again_is_no_obstacle_to_the_others(suite: Suite) -> None:
    workspace, people = await new_workspace(suite), sorted(str(uuid.uuid4()) for _ in range(2))
    banned = "SELECT user_id::text FROM workspace_bans WHERE workspace_id = %s"
    with suite.database("membership_owner") as database:
        for user_id in people:
            database.execute("INSERT INTO membership.departed_users VALUES (%s)", (user_id,))
            database.execute(
                "INSERT INTO membership.workspace_bans (id, workspace_id, user_id) VALUES (%s, %s, %s)",
                (str(uuid_utils.uuid7()), workspace.id, user_id),
            )
        database.execute(
            "CREATE FUNCTION membership.keep() RETURNS trigger LANGUAGE plpgsql AS $$"
            " BEGIN RAISE EXCEPTION 'kept'; END $$"
        )
        database.execute(
            "CREATE TRIGGER keep BEFORE DELETE ON membership.workspace_bans FOR EACH ROW"
            f" WHEN (OLD.user_id = '{people[0]}') EXECUTE FUNCTION membership.keep()"
        )
        try:
            await erasures.sweep(suite.frames["membership"].database)
            assert rows(suite, banned, workspace.id) == [(people[0],)]
        finally:
            database.execute("DROP FUNCTION membership.keep CASCADE")

    await erasures.sweep(suite.frames["membership"].database)
    assert rows(suite, banned, workspace.id) == []


async def test_what_is_told_late_of_a_deleted_person_names_nobody(suite: Suite) -> None:
    workspace, bob = await new_workspace(suite), await suite.person("Bob")
    await erased(suite, bob)
    late = events.ActivityRecorded(
        workspace_id=workspace.id,
        action="guest.removed",
        actor_user_id=bob.user_id,
        target_type="guest",
        target_user_id=bob.user_id,
        reason="late",
        user_agent="a browser",
    )

    await deliver(suite, events.Event(activity_recorded=late), source="guest")

    assert {place.split(".")[0] for place in places_of(suite, bob.user_id)} <= {KEPT_FOR_A_WEEK}
    newest = """
        SELECT action, actor_ref, target_ref, target_details_hash FROM activities
        WHERE workspace_id = %s ORDER BY number DESC LIMIT 1
    """
    assert rows(suite, newest, workspace.id) == [("guest.removed", None, None, None)]
    assert (await verified(workspace)).intact


def test_a_departure_reads_no_table_from_end_to_end(suite: Suite) -> None:
    statements = (erasures.STAYS_OF, erasures.FULL_STAYS_OF, erasures.REFS_OF, *erasures.FORGET, handles.FORGET)
    with suite.database("membership") as database:
        database.execute("SET enable_seqscan = off")
        for statement in statements:
            query = str(statement).replace(":user_id", f"'{uuid.uuid4()}'")
            plan = "\n".join(row[0] for row in database.execute(f"EXPLAIN {query}").fetchall())
            assert "Seq Scan" not in plan, plan


async def test_a_departure_is_forgotten_after_seven_days(suite: Suite) -> None:
    just_past, almost = str(uuid_utils.uuid7()), str(uuid_utils.uuid7())
    with suite.database("membership") as database:
        database.execute(
            "INSERT INTO departed_users VALUES (%s, statement_timestamp() - interval '7 days'),"
            " (%s, statement_timestamp() - interval '7 days' + interval '10 minutes')",
            (just_past, almost),
        )

    await erasures.sweep(suite.frames["membership"].database)

    left = "SELECT user_id::text FROM departed_users WHERE user_id = ANY(%s::uuid[])"
    assert rows(suite, left, [just_past, almost]) == [(almost,)]
