"""A workspace in which others have many conversations among themselves: what one sees costs no more for it."""

import pytest
from sqlalchemy import TextClause

from services.messaging import conversations, events
from services.messaging.access import Viewer
from tests.support.conversations import Hall, new_hall
from tests.support.statements import rows_looked_at
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


async def looked_at(hall: Hall, statement: TextClause, parameters: dict[str, object]) -> int:
    """How many conversations a statement looks at."""
    return await rows_looked_at(hall.suite.frames["messaging"].database, statement, parameters)


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


async def test_what_is_abandoned_is_found_among_private_channels(crowded: Hall) -> None:
    page = {"workspace_id": crowded.workspace_id, "kind": None, "archived": False}
    left = await crowded.channel(private=True)
    await crowded.of("LeaveConversation", left)
    parameters = {**page, "after": conversations.FIRST, "limit": 51}
    assert 1 <= await looked_at(crowded, conversations.LIST_ABANDONED, parameters) <= 10


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
