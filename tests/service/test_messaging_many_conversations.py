"""A workspace in which others have many conversations among themselves: what one sees costs no more for it."""

import json
from typing import Any

import pytest

from services.messaging import conversations, events
from services.messaging.access import Viewer
from tests.support.conversations import Hall, new_hall
from tests.support.suite import Suite

MANY = 3000


@pytest.fixture(scope="module")
async def crowded(suite: Suite) -> Hall:
    """A workspace with many direct conversations of two people."""
    hall = await new_hall(suite)
    (ann, ann_id), (bob, bob_id) = await hall.newcomer("Ann"), await hall.newcomer("Bob")
    hall.rows(
        "INSERT INTO conversations (id, workspace_id, kind, name, visibility, created_by_member_id, direct_key)"
        " SELECT gen_random_uuid(), %s, 'direct', '', 'private', %s, sha256(CAST(n::text AS bytea))"
        " FROM generate_series(1, %s) n",
        hall.workspace_id,
        ann_id,
        MANY,
    )
    for person, member_id in ((ann, ann_id), (bob, bob_id)):
        hall.rows(
            "INSERT INTO participants (conversation_id, member_id, user_id, workspace_id)"
            " SELECT id, %s, %s, workspace_id FROM conversations WHERE workspace_id = %s AND kind = 'direct'",
            member_id,
            person.user_id,
            hall.workspace_id,
        )
    with suite.database("messaging_owner") as database:
        database.execute("ANALYZE conversations, participants")
    return hall


def rows_read(plan: dict[str, Any]) -> int:
    """How many conversations were looked at."""
    own = 0
    if plan.get("Relation Name") == "conversations":
        own = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return int(own) + sum(rows_read(part) for part in plan.get("Plans", ()))


async def looked_at(hall: Hall, statement: Any, parameters: dict[str, object]) -> int:
    """How many conversations a statement looks at."""

    async def explain(tx: Any) -> Any:
        from sqlalchemy import text

        return await tx.scalar(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}"), parameters)

    found = await hall.suite.frames["messaging"].database.read(explain)
    (plan,) = json.loads(found) if isinstance(found, str) else found
    return rows_read(plan["Plan"])


async def test_a_stream_opens_by_what_one_sees(crowded: Hall) -> None:
    viewer = Viewer(crowded.workspace_id, crowded.admin.user_id, crowded.admin_member_id, None)
    assert 1 <= await looked_at(crowded, events.SNAPSHOT, viewer.parameters) <= 10


async def test_a_guests_stream_and_list_are_by_what_is_granted(crowded: Hall) -> None:
    person, guest = await crowded.guest()
    viewer = Viewer(crowded.workspace_id, person.user_id, guest.member_id, {crowded.channel_id: None})
    page = {"kind": None, "archived": False, "after": conversations.FIRST, "limit": 51, "user_id": person.user_id}
    assert 1 <= await looked_at(crowded, events.SNAPSHOT, viewer.parameters) <= 10
    assert 1 <= await looked_at(crowded, conversations.LIST_AS_GUEST, {**viewer.parameters, **page}) <= 20


async def test_a_page_is_of_what_one_sees(crowded: Hall) -> None:
    page = {"workspace_id": crowded.workspace_id, "user_id": crowded.admin.user_id, "kind": None, "archived": False}
    parameters = {**page, "after": conversations.FIRST, "limit": 51}
    assert 1 <= await looked_at(crowded, conversations.LIST_AS_MEMBER, parameters) <= 20


async def test_what_is_seen_is_what_was_seen(crowded: Hall) -> None:
    private = await crowded.channel(private=True)
    direct = (await crowded.direct((await crowded.newcomer("Cy"))[1])).conversation_id
    assert await crowded.seen(crowded.admin) == [crowded.channel_id, private, direct]
    found, token = [], ""
    while True:
        page = await crowded.conversations(crowded.admin, page_size=1, page_token=token)
        found += [each.conversation_id for each in page.conversations]
        token = page.next_page_token
        if not token:
            break
    assert found == [crowded.channel_id, private, direct]
