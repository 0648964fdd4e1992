"""Direct conversations: one for each set of people, who never change."""

import asyncio
import uuid

import grpc
import pytest
from guildhall.messaging.v1 import conversation_service_pb2 as pb

from tests.service.test_messaging_streams import listening
from tests.support.conversations import Hall, key, new_hall
from tests.support.suite import Suite, refused


@pytest.fixture
async def hall(suite: Suite) -> Hall:
    """A workspace of this test's own."""
    return await new_hall(suite)


async def test_a_direct_conversation_is_of_those_it_was_opened_for(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    cy, _ = await hall.newcomer("Cy")
    async with listening(hall, bob) as listener:
        opened = await hall.direct(bob_id)
        assert (opened.kind, opened.name, opened.visibility) == (pb.CONVERSATION_KIND_DIRECT, "", pb.VISIBILITY_PRIVATE)
        assert opened.initiated_by_member_id == hall.admin_member_id
        await listener.until(lambda: listener.has("conversation_gained", opened.conversation_id))
        await hall.sent(hall.admin, "psst", to=opened.conversation_id)
        await listener.until(lambda: listener.texts(opened.conversation_id) == ["psst"])
    assert await hall.taking_part(opened.conversation_id, by=bob) == {hall.admin_member_id, bob_id}
    for call in (hall.get(opened.conversation_id, by=cy), hall.read(cy, opened.conversation_id)):
        assert (await refused(call)).reason == "NOT_FOUND"
    assert opened.conversation_id not in await hall.seen(cy)


async def test_whoever_opens_it_and_however_they_name_the_others_it_is_the_same(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    _, cy_id = await hall.newcomer("Cy")
    opened = (await hall.direct(bob_id, cy_id)).conversation_id
    for ids, by in (
        ((cy_id, bob_id.upper()), hall.admin),
        ((cy_id, bob_id, bob_id, hall.admin_member_id), hall.admin),
        ((hall.admin_member_id, cy_id), bob),
    ):
        assert (await hall.direct(*ids, by=by)).conversation_id == opened
    # Another set of people is another conversation.
    assert (await hall.direct(bob_id)).conversation_id != opened


async def test_two_who_open_it_at_once_get_the_same_one(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    others = [await hall.newcomer(name) for name in ("Cy", "Dee", "Eve", "Moe", "Gil", "Hal")]
    # 50 sets of people: Bob, the admin and some of the others, the others as the bits of a number.
    sets = [[member_id for bit, (_, member_id) in enumerate(others) if number & 1 << bit] for number in range(50)]
    for chosen in sets:
        both = await asyncio.gather(
            hall.direct(bob_id, *chosen), hall.direct(hall.admin_member_id, *reversed(chosen), by=bob)
        )
        assert both[0].conversation_id == both[1].conversation_id
    found = hall.rows(
        "SELECT count(*), count(DISTINCT direct_key) FROM conversations WHERE workspace_id = %s AND kind = 'direct'",
        hall.workspace_id,
    )
    assert found == [(50, 50)]
    rows = hall.rows(
        "SELECT count(*) FROM participants WHERE conversation_id ="
        " (SELECT id FROM conversations WHERE workspace_id = %s AND kind = 'direct' ORDER BY id LIMIT 1)",
        hall.workspace_id,
    )
    assert rows == [(2,)]


async def test_opening_again_with_the_same_key_gives_the_same_answer(hall: Hall) -> None:
    _, bob_id = await hall.newcomer("Bob")
    _, cy_id = await hall.newcomer("Cy")
    request_id = key()
    first = await hall.direct(bob_id, request_id=request_id)
    assert await hall.direct(bob_id, request_id=request_id) == first
    assert (await refused(hall.direct(cy_id, request_id=request_id))).reason == "IDEMPOTENCY_MISMATCH"


async def test_who_is_unknown_suspended_pending_or_a_guest_looks_the_same(hall: Hall) -> None:
    _, bob_id = await hall.newcomer("Bob")
    _, cy_id = await hall.newcomer("Cy")
    _, as_guest = await hall.guest()
    pending_id = str(uuid.uuid4())
    with hall.suite.database("membership") as database:
        database.execute(
            "INSERT INTO members (id, workspace_id, user_id, role, kind, state, redemption_id)"
            " VALUES (%s, %s, gen_random_uuid(), 'member', 'guest', 'pending', gen_random_uuid())",
            (pending_id, hall.workspace_id),
        )
    await hall.change_member("SuspendMember", bob_id)
    refusals = [
        await refused(hall.direct(cy_id, member_id))
        for member_id in (str(uuid.uuid4()), bob_id, pending_id, as_guest.member_id)
    ]
    assert {(refusal.code, refusal.raw) for refusal in refusals} == {(grpc.StatusCode.NOT_FOUND, refusals[0].raw)}
    await hall.change_member("ReinstateMember", bob_id)
    assert (await hall.direct(cy_id, bob_id)).conversation_id


async def test_guests_and_viewers_open_none_and_nobody_opens_one_with_themselves(hall: Hall) -> None:
    _, bob_id = await hall.newcomer("Bob")
    viewer, _ = await hall.newcomer("Cy", "viewer")
    guest, _ = await hall.guest()
    for person in (guest, viewer):
        refusal = await refused(hall.direct(bob_id, by=person))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    for ids in ((), (hall.admin_member_id,), tuple(str(uuid.uuid4()) for _ in range(9))):
        refusal = await refused(hall.direct(*ids))
        assert (refusal.reason, set(refusal.fields)) == ("INVALID_REQUEST", {"member_ids"})


@pytest.mark.parametrize(
    "method",
    [
        "JoinConversation",
        "LeaveConversation",
        "AddParticipant",
        "RemoveParticipant",
        "ArchiveConversation",
        "UpdateConversation",
    ],
)
async def test_a_direct_conversation_keeps_its_people_and_is_nobodys_to_change(hall: Hall, method: str) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    _, cy_id = await hall.newcomer("Cy")
    opened = (await hall.direct(bob_id)).conversation_id
    if method == "UpdateConversation":
        call = hall.update(opened, topic="Ours")
    else:
        call = hall.of(method, opened, **({"member_id": cy_id} if method.endswith("Participant") else {}))
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONVERSATION_KIND")
    assert await hall.taking_part(opened, by=bob) == {hall.admin_member_id, bob_id}


async def test_who_comes_back_to_the_workspace_starts_with_nothing(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    opened = (await hall.direct(bob_id)).conversation_id
    await hall.sent(bob, "before", to=opened)
    await hall.remove(bob_id)
    _, again_id = await hall.newcomer("Bob")
    assert (await refused(hall.read(bob, opened))).reason == "NOT_FOUND"
    assert (await hall.direct(again_id)).conversation_id != opened
    assert await hall.texts(hall.admin, opened) == ["before"]
