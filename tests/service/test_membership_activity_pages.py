"""What a page of the activity log costs: it reads what it shows, or looks at so many numbers and goes on."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from guildhall.membership.v1 import activity_service_pb2 as pb

from services.membership import activity_reads
from tests.service.test_membership_activities import export, lines_of, page
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.statements import statements_sent
from tests.support.suite import Suite

ROWS = 6000
RARE = [1001, 2500, 5900]
"""Two of them at the edges of what is looked at, 500 at a time."""
THING = str(uuid.uuid4())
FILL = """
    INSERT INTO membership.activities (
        workspace_id, number, happened_at, action, outcome, actor_ref, target_type, target_id, target_ref, metadata,
        request_id, hash
    )
    SELECT %(workspace)s, number, statement_timestamp(), action, outcome, ref, kind, thing, ref, '{}', '',
        decode(repeat('00', 32), 'hex')
    FROM generate_series(CAST(%(from)s AS bigint), CAST(%(rows)s AS bigint)) AS number
    CROSS JOIN LATERAL (SELECT number = ANY(%(rare)s) AS is_rare) mark
    CROSS JOIN LATERAL (
        SELECT CASE WHEN is_rare THEN 'tool.mended' ELSE 'thing.made' END AS action,
            CASE WHEN is_rare THEN 'refused' ELSE 'done' END AS outcome,
            CASE WHEN is_rare THEN 'tool' ELSE 'thing' END AS kind,
            CASE WHEN is_rare THEN CAST(%(thing)s AS uuid) END AS thing,
            CASE WHEN is_rare THEN CAST(%(ref)s AS uuid) END AS ref
    ) what
"""


@pytest.fixture
async def long(suite: Suite) -> Workspace:
    """A workspace with a log of 6 000 rows, three of which differ in everything from all others."""
    workspace, eve = await new_workspace(suite), await somebody(suite, "Eve")
    ref = str(uuid.uuid4())
    with suite.database("membership_owner") as database:
        database.execute(
            "INSERT INTO membership.activity_people (ref, workspace_id, user_id) VALUES (%s, %s, %s)",
            (ref, workspace.id, eve.user_id),
        )
        # From behind what the workspace's own beginning has left.
        values = {"workspace": workspace.id, "from": 101, "rows": ROWS, "rare": RARE, "thing": THING, "ref": ref}
        database.execute(FILL, values)
        database.execute(
            "UPDATE membership.workspace_heads SET activity_number = %s WHERE workspace_id = %s", (ROWS, workspace.id)
        )
        database.execute("ANALYZE membership.activities")
    return workspace


def nodes(plan: Any) -> Iterator[Any]:
    """A plan's node, and all below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


async def looked_at(workspace: Workspace, *, call: Any, **filters: Any) -> tuple[list[int], int, str]:
    """The numbers on a page, how many rows of the log were looked at for it, and the plan as text."""
    chosen = pb.ActivityFilter(**filters)
    with statements_sent() as sent:
        if call is page:
            numbers = [one.number for one in (await page(workspace, filter=chosen, page_size=2)).activities]
        else:
            numbers = [one.number for one in lines_of(await export(workspace, filter=chosen))]
    queries = [one for one in sent if one.service == "membership" and "FROM activities a" in one.text]
    looked, plans = 0, ""
    with workspace.suite.database("membership") as database:
        for query in queries:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {query.text}".encode()
            row = database.execute(explain, query.parameters).fetchone()
            assert row is not None
            plans += json.dumps(row[0])
            for node in nodes(row[0][0]["Plan"]):
                if node.get("Relation Name") == "activities":
                    looked += int(node["Actual Rows"]) * node["Actual Loops"] + node.get("Rows Removed by Filter", 0)
    return numbers, looked, plans


async def eves(workspace: Workspace) -> str:
    """The person of the three rows."""
    return (await somebody(workspace.suite, "Eve")).user_id


FILTERS: dict[str, dict[str, Any]] = {
    "activities_actor": {"actor_user_id": "Eve"},
    "activities_person": {"target_user_id": "Eve"},
    "activities_action": {"actions": ["tool.mended"]},
    "activities_target": {"target_type": "tool", "target_id": THING},
    "activities_refused_number": {"outcome": pb.ACTIVITY_OUTCOME_REFUSED},
}


@pytest.mark.parametrize("index", FILTERS)
async def test_what_an_index_lists_is_read_from_it_however_long_the_log_is(index: str, long: Workspace) -> None:
    user_id = await eves(long)
    filters = {name: user_id if value == "Eve" else value for name, value in FILTERS[index].items()}

    numbers, looked, plan = await looked_at(long, call=page, **filters)
    assert numbers == [5900, 2500]
    assert looked <= 3
    assert f'"{index}"' in plan

    numbers, looked, _plan = await looked_at(long, call=export, **filters)
    assert numbers == RARE
    assert looked <= 3


async def test_actions_that_begin_alike_are_a_range_of_their_index(long: Workspace) -> None:
    numbers, looked, plan = await looked_at(long, call=page, actions=["tool.*", "never.done"])

    assert numbers == [5900, 2500]
    assert looked < 100
    assert '"activities_action"' in plan


MIXED: list[dict[str, Any]] = [
    {"target_type": "tool"},
    {"target_id": THING},
    {"target_type": "tool", "actions": ["tool.*"], "outcome": pb.ACTIVITY_OUTCOME_REFUSED},
    {"actions": ["tool.mended", "tool.lent"]},
    {"target_type": "tool", "outcome": pb.ACTIVITY_OUTCOME_REFUSED},
]


@pytest.mark.parametrize("filters", MIXED)
async def test_pages_of_any_other_filter_look_at_so_many_numbers_and_go_on_until_the_end(
    filters: dict[str, Any], long: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity_reads, "MOST_WALKED", 500)
    found: list[list[int]] = []
    token, is_last = "", False
    while not is_last:
        part = await page(long, filter=pb.ActivityFilter(**filters), page_size=2, page_token=token)
        found.append([one.number for one in part.activities])
        token = part.next_page_token
        is_last = not token

    assert [number for numbers in found for number in numbers] == RARE[::-1]
    assert [len(numbers) for numbers in found] == [1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize("filters", [*MIXED, {"outcome": pb.ACTIVITY_OUTCOME_DONE, "target_type": "tool"}])
async def test_a_statement_looks_at_no_more_numbers_than_that(
    filters: dict[str, Any], long: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity_reads, "MOST_WALKED", 500)

    _numbers, looked, _plan = await looked_at(long, call=page, **filters)
    assert looked <= 500

    with statements_sent() as sent:
        exported = [one.number for one in lines_of(await export(long, filter=pb.ActivityFilter(**filters)))]
    assert exported == ([] if filters.get("outcome") == pb.ACTIVITY_OUTCOME_DONE else RARE)
    assert sum(1 for one in sent if one.service == "membership" and "FROM activities a" in one.text) == ROWS / 500


async def test_a_page_that_is_full_goes_on_behind_its_last_row(
    long: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity_reads, "MOST_WALKED", 500)
    chosen = pb.ActivityFilter(target_type="thing", outcome=pb.ACTIVITY_OUTCOME_DONE)
    first = await page(long, filter=chosen, page_size=200)
    second = await page(long, filter=chosen, page_size=200, page_token=first.next_page_token)

    numbers = [one.number for one in (*first.activities, *second.activities)]
    assert numbers == [number for number in range(ROWS, ROWS - 401, -1) if number not in RARE][:400]
