"""The activity log: pages, filters, refusals, exports, and what other services tell."""

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from google.protobuf.json_format import Parse
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.membership.v1 import activity_service_pb2 as pb
from guildhall.membership.v1 import activity_service_pb2_grpc as activity_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspace_rpc

from services.membership import activity_exports, activity_reads
from tests.service.test_membership_erasure import rows, verified
from tests.service.test_membership_groups import new_place
from tests.service.test_membership_peers import change, guest_of
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.deliveries import deliver
from tests.support.suite import Person, Suite, refused


async def page(workspace: Workspace, *, by: Person | None = None, **fields: Any) -> Any:
    """What ListActivities answers."""
    stub = workspace.suite.stub(activity_rpc.ActivityServiceStub)
    request = pb.ListActivitiesRequest(workspace_id=workspace.id, **fields)
    return await (by or workspace.admin).call(stub.ListActivities, request)


async def log(workspace: Workspace, **filters: Any) -> list[Any]:
    """The activities that a filter chooses, newest first."""
    return list((await page(workspace, filter=pb.ActivityFilter(**filters), page_size=200)).activities)


async def export(workspace: Workspace, *, by: Person | None = None, **fields: Any) -> list[Any]:
    """The responses of ExportActivities."""
    stub = workspace.suite.stub(activity_rpc.ActivityServiceStub)
    request = pb.ExportActivitiesRequest(workspace_id=workspace.id, **fields)
    return [response async for response in (by or workspace.admin).stream(stub.ExportActivities, request)]


def lines_of(responses: list[Any]) -> list[Any]:
    """The activities in an export."""
    text = b"".join(response.json_lines for response in responses)
    return [Parse(line, pb.Activity()) for line in text.splitlines()]


async def recorded(workspace: Workspace, *, source: str = "guest", **fields: Any) -> None:
    """An activity that another service tells of."""
    told = events.ActivityRecorded(
        **{"workspace_id": workspace.id, "action": "guest.extended", "target_type": "guest", **fields}
    )
    await deliver(workspace.suite, events.Event(activity_recorded=told), source=source)


def stamp(moment: datetime) -> Timestamp:
    """A time on the wire."""
    wired = Timestamp()
    wired.FromDatetime(moment)
    return wired


async def test_an_activity_says_who_did_what_to_whom_why_and_by_which_call(suite: Suite) -> None:
    workspace, bob = await new_workspace(suite), await somebody(suite, "Bob")
    bob_id = await workspace.join(bob)
    await change(workspace, "UpdateMemberRole", member_id=bob_id, role=members.ROLE_VIEWER, reason="he asked for it")

    newest = (await log(workspace))[0]

    assert (newest.action, newest.outcome) == ("member.role_updated", pb.ACTIVITY_OUTCOME_DONE)
    assert (newest.actor_user_id, newest.actor_name) == (workspace.admin.user_id, "Admin")
    assert (newest.target_type, newest.target_id, newest.target_user_id) == ("member", "", bob.user_id)
    assert json.loads(newest.metadata_json) == {"before": {"role": "member"}, "after": {"role": "viewer"}}
    assert newest.reason == "he asked for it"
    assert newest.session_id == workspace.admin.session_id
    assert newest.request_id
    assert newest.user_agent
    assert len(newest.hash) == 32
    assert abs(newest.activity_time.ToDatetime(tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=5)
    assert newest.workspace_id == workspace.id


async def test_pages_go_back_to_the_first_activity_and_their_tokens_fit_one_list_only(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    for name in ("Bob", "Cy"):
        await workspace.join(await somebody(suite, name))
    whole = [one.number for one in await log(workspace)]
    assert whole == list(range(len(whole), 0, -1))

    found, token = [], ""
    while True:
        part = await page(workspace, page_size=2, page_token=token)
        found += [one.number for one in part.activities]
        token = part.next_page_token
        if not token:
            break
    assert found == whole

    token = (await page(workspace, page_size=2)).next_page_token
    other_filter = pb.ActivityFilter(target_type="member")
    assert (await refused(page(workspace, page_token=token, filter=other_filter))).reason == "INVALID_REQUEST"


async def test_each_filter_chooses_and_together_they_all_hold(suite: Suite) -> None:
    place = await new_place(suite)
    workspace, bob = place.workspace, await somebody(suite, "Bob")
    bob_id = await workspace.join(bob)
    group = await place.create("Bobs", by=bob)
    await refused(workspace.remove(workspace.admin_member_id, by=bob))
    await workspace.remove(bob_id)

    async def actions(**filters: Any) -> set[str]:
        return {one.action for one in await log(workspace, **filters)}

    assert await actions(actor_user_id=bob.user_id) >= {"member.joined", "group.created", "member.removed"}
    assert "workspace.created" not in await actions(actor_user_id=bob.user_id)
    assert await actions(actor_user_id=str(uuid.uuid4())) == set()
    assert await actions(target_user_id=bob.user_id.upper()) >= {"member.joined", "member.removed"}
    assert await actions(actions=["member.removed", "group.*"]) == {
        "member.removed",
        "group.created",
        "group.archived",
    }
    assert await actions(actions=["member.*"]) == {"member.joined", "member.removed"}
    assert await actions(actions=["group.deleted"]) == set()
    assert await actions(target_type="workspace") >= {"workspace.created"}
    assert await actions(target_id=group.group_id) == {"group.created", "group.archived"}
    assert await actions(outcome=pb.ACTIVITY_OUTCOME_REFUSED) == {"member.removed"}
    done = await actions(outcome=pb.ACTIVITY_OUTCOME_DONE, actions=["member.removed"], actor_user_id=bob.user_id)
    assert done == set()
    assert await actions(outcome=pb.ACTIVITY_OUTCOME_REFUSED, target_type="group") == set()


async def test_a_time_range_is_half_open_to_the_microsecond(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    await workspace.join(await somebody(suite, "Bob"))
    (created,) = await log(workspace, actions=["workspace.created"])
    moment = created.activity_time.ToDatetime(tzinfo=UTC)
    tick = timedelta(microseconds=1)

    async def has(**times: datetime) -> bool:
        found = await log(workspace, **{name: stamp(value) for name, value in times.items()})
        return created.number in {one.number for one in found}

    assert await has(start_time=moment)
    assert not await has(start_time=moment + tick)
    assert not await has(end_time=moment)
    assert await has(end_time=moment + tick)
    refusal = await refused(log(workspace, start_time=Timestamp(seconds=-(10**12))))
    assert refusal.reason == "INVALID_REQUEST"


@pytest.mark.parametrize("wrong", [{"actions": ["Member"]}, {"actions": ["*"]}, {"target_type": "A-B"}])
async def test_a_filter_that_could_choose_nothing_is_refused(wrong: dict[str, Any], suite: Suite) -> None:
    assert (await refused(log(await new_workspace(suite), **wrong))).reason == "INVALID_REQUEST"


async def test_only_admins_read_the_log_and_who_is_no_full_member_does_not_learn_of_it(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, eve = await somebody(suite, "Bob"), await somebody(suite, "Eve")
    await workspace.join(bob)
    gil, _ = await guest_of(workspace)
    stub = suite.stub(activity_rpc.ActivityServiceStub)
    verify = pb.VerifyActivityChainRequest(workspace_id=workspace.id)

    async def exported(by: Person) -> None:
        await export(workspace, by=by)

    for person, reason in ((bob, "PERMISSION_DENIED"), (eve, "NOT_FOUND"), (gil, "NOT_FOUND")):
        for call in (page(workspace, by=person), exported(person), person.call(stub.VerifyActivityChain, verify)):
            assert (await refused(call)).reason == reason
    assert (await page(workspace)).activities
    assert await export(workspace)
    assert (await verified(workspace)).intact


async def test_a_deleted_workspaces_log_is_not_found_but_its_chain_stays(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    await workspace.admin.call(stub.DeleteWorkspace, workspaces.DeleteWorkspaceRequest(workspace_id=workspace.id))

    assert (await refused(page(workspace))).reason == "NOT_FOUND"
    kept = "SELECT max(number), count(*) FROM activities WHERE workspace_id = %s"
    assert rows(suite, kept, workspace.id) == [(3, 3)]


async def test_a_refused_attempt_is_in_the_log_and_a_strangers_is_not(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, eve = await somebody(suite, "Bob"), await somebody(suite, "Eve")
    await workspace.join(bob)
    before = await log(workspace)

    await refused(workspace.remove(workspace.admin_member_id, by=bob))
    await refused(workspace.remove(workspace.admin_member_id, by=eve))
    await refused(workspace.remove(workspace.admin_member_id))

    by_admin, by_bob = (await log(workspace))[: -len(before)]
    assert (by_bob.outcome, by_bob.actor_user_id) == (pb.ACTIVITY_OUTCOME_REFUSED, bob.user_id)
    assert (by_bob.action, json.loads(by_bob.metadata_json)) == ("member.removed", {"error": "PERMISSION_DENIED"})
    assert json.loads(by_admin.metadata_json) == {"error": "RANK_TOO_LOW"}


async def test_ten_refusals_of_a_person_in_a_minute_are_kept_and_no_more(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, cy = await somebody(suite, "Bob"), await somebody(suite, "Cy")
    for person in (bob, cy):
        await workspace.join(person)

    async def attempts(person: Person, count: int) -> int:
        await asyncio.gather(*(refused(workspace.remove(workspace.admin_member_id, by=person)) for _ in range(count)))
        return len(await log(workspace, outcome=pb.ACTIVITY_OUTCOME_REFUSED))

    assert await attempts(bob, 16) == 10
    assert await attempts(bob, 1) == 10
    assert await attempts(cy, 1) == 11
    with suite.database("membership_owner") as database:
        database.execute(
            "UPDATE membership.activities SET happened_at = happened_at - interval '1 minute'"
            " WHERE workspace_id = %s AND outcome = 'refused'",
            (workspace.id,),
        )
    assert await attempts(bob, 1) == 12


async def test_an_export_holds_every_activity_as_a_line_of_json(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    await workspace.join(await somebody(suite, "Bob"))
    listed = await log(workspace)

    responses = await export(workspace)

    lines = lines_of(responses)
    assert [one.number for one in lines] == [one.number for one in reversed(listed)]
    assert [one.hash for one in lines] == [one.hash for one in reversed(listed)]
    assert not any(one.actor_name for one in lines)
    assert responses[-1].last_number == listed[0].number
    assert all(response.json_lines.endswith(b"\n") for response in responses)


async def test_an_export_in_parts_is_resumed_after_a_number(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity_exports, "CHUNK_BYTES", 1)
    monkeypatch.setattr(activity_exports, "ROWS", 2)
    workspace = await new_workspace(suite)
    await workspace.join(await somebody(suite, "Bob"))

    responses = await export(workspace)
    rest = await export(workspace, after_number=responses[1].last_number)
    joins = await export(workspace, filter=pb.ActivityFilter(actions=["member.joined"]))
    nothing = await export(workspace, after_number=responses[-1].last_number)

    assert len(responses) == len(lines_of(responses)) > 2
    assert rest == responses[2:]
    assert [one.action for one in lines_of(joins)] == ["member.joined"] * 2
    assert nothing == []


async def test_an_export_ends_when_its_reader_may_no_longer_read(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity_exports, "CHUNK_BYTES", 1)
    monkeypatch.setattr(activity_exports, "ROWS", 1)
    workspace, bob = await new_workspace(suite), await somebody(suite, "Bob")
    bob_id = await workspace.join(bob, members.ROLE_ADMIN)
    read = activity_reads.list_after

    async def then_demoted(*args: Any, after: int, **named: Any) -> Any:
        if after == 2:
            await change(workspace, "UpdateMemberRole", member_id=bob_id, role=members.ROLE_MEMBER)
        return await read(*args, after=after, **named)

    monkeypatch.setattr(activity_reads, "list_after", then_demoted)
    stub = suite.stub(activity_rpc.ActivityServiceStub)
    call = bob.stream(stub.ExportActivities, pb.ExportActivitiesRequest(workspace_id=workspace.id))
    numbers = []

    async def read_on() -> None:
        async for response in call:
            numbers.append(response.last_number)

    assert (await refused(read_on())).reason == "PERMISSION_DENIED"
    assert numbers == [1, 2]


@pytest.mark.parametrize("source", ["identity", "guest", "messaging"])
async def test_what_another_service_tells_is_in_the_log(source: str, suite: Suite) -> None:
    workspace, bob = await new_workspace(suite), await somebody(suite, "Bob")
    await workspace.join(bob)
    moment = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
    thing = str(uuid.uuid4())

    await recorded(
        workspace,
        source=source,
        action="conversation.archived",
        actor_user_id=workspace.admin.user_id,
        target_type="conversation",
        target_id=thing,
        target_user_id=bob.user_id,
        metadata_json='{"before": {"archived": false}, "after": {"archived": true}}',
        reason="it is done",
        request_id="r-1",
        session_id="s-1",
        client_address="192.0.2.1",
        user_agent="a browser",
        activity_time=stamp(moment),
        refused=True,
    )

    told = (await log(workspace))[0]
    assert (told.action, told.target_type, told.target_id) == ("conversation.archived", "conversation", thing)
    assert (told.actor_user_id, told.target_user_id) == (workspace.admin.user_id, bob.user_id)
    assert json.loads(told.metadata_json) == {"before": {"archived": False}, "after": {"archived": True}}
    assert (told.reason, told.request_id, told.session_id) == ("it is done", "r-1", "s-1")
    assert (told.client_address, told.user_agent) == ("192.0.2.1", "a browser")
    assert told.activity_time.ToDatetime(tzinfo=UTC) == moment
    assert told.outcome == pb.ACTIVITY_OUTCOME_REFUSED
    assert (await verified(workspace)).intact


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        ("", {}),
        ('{"b":[1,true,null,"é\\u0001"],"a":-12345678901234567890}', None),
        ("{", {"unreadable": True}),
        ("[1]", {"unreadable": True}),
        ('{"a": 0.1}', {"unreadable": True}),
        ('{"a": NaN}', {"unreadable": True}),
        ('{"a": "\\ud800"}', {"unreadable": True}),
        ('{"a": "\\u0000"}', {"unreadable": True}),
        ("[" * 8000, {"unreadable": True}),
        ('{"a": ' + "9" * 7000 + "}", {"unreadable": True}),
    ],
)
async def test_metadata_that_has_no_one_spelling_is_not_kept(metadata: str, kept: Any, suite: Suite) -> None:
    workspace = await new_workspace(suite)

    await recorded(workspace, metadata_json=metadata)

    told = (await log(workspace))[0]
    assert json.loads(told.metadata_json) == (json.loads(metadata) if kept is None else kept)
    assert (await verified(workspace)).intact


@pytest.mark.parametrize("seconds", [None, -1, -(10**12), 10**12])
async def test_a_time_that_is_not_told_or_none_is_the_databases(seconds: int | None, suite: Suite) -> None:
    workspace = await new_workspace(suite)
    created = (await log(workspace))[0].activity_time.ToDatetime()

    fields: dict[str, Any] = {} if seconds is None else {"activity_time": Timestamp(seconds=seconds)}
    await recorded(workspace, **fields)

    told = (await log(workspace))[0].activity_time.ToDatetime()
    assert created <= told <= created + timedelta(minutes=5)
    assert (await verified(workspace)).intact


async def test_what_is_told_of_no_workspace_is_dropped(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    await workspace.admin.call(stub.DeleteWorkspace, workspaces.DeleteWorkspaceRequest(workspace_id=workspace.id))
    count = "SELECT count(*) FROM activities WHERE workspace_id = %s"
    before = rows(suite, count, workspace.id)

    await recorded(workspace)
    await recorded(workspace, workspace_id=str(uuid.uuid4()))

    assert rows(suite, count, workspace.id) == before


async def test_an_event_that_is_delivered_three_times_is_one_activity(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    told = events.ActivityRecorded(workspace_id=workspace.id, action="guest.extended", target_type="guest")
    await deliver(suite, events.Event(activity_recorded=told), source="guest", times=3)
    assert [one.action for one in await log(workspace)].count("guest.extended") == 1


async def test_the_service_can_neither_change_nor_delete_an_activity(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    with suite.database("membership") as database:
        for statement in (
            "UPDATE activities SET action = 'x.y' WHERE workspace_id = %s",
            "DELETE FROM activities WHERE workspace_id = %s",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                database.execute(statement, (workspace.id,))
