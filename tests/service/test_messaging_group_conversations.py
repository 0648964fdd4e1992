"""Conversations of groups: who is in them, and that what is written down of it opens nothing to who is out.

Nobody hears of changes of groups here but by `tell_changed`, and where that matters the sweep is held back as well.
"""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging.group_syncs import STEP, GroupSyncs
from services.messaging.peers import Membership
from tests.service.test_messaging_streams import listening
from tests.support.conversations import Hall, new_hall
from tests.support.deliveries import deliver, until
from tests.support.statements import statements_sent
from tests.support.suite import Person, Suite, refused


@pytest.fixture
async def hall(suite: Suite) -> Hall:
    """A workspace of this test's own."""
    return await new_hall(suite)


async def choir(hall: Hall) -> tuple[str, str, Person, str]:
    """A group with its conversation, and Bob in it: group, conversation, Bob, his member id."""
    bob, bob_id = await hall.newcomer("Bob")
    group_id = await hall.group()
    await hall.put_into(group_id, bob_id)
    return group_id, await hall.group_conversation(group_id), bob, bob_id


async def test_who_is_in_the_group_takes_part_and_nobody_else(hall: Hall) -> None:
    group_id, conversation_id, bob, bob_id = await choir(hall)
    outside, _ = await hall.newcomer("Cy")

    assert await hall.taking_part(conversation_id) == {hall.admin_member_id, bob_id}
    found = await hall.get(conversation_id, by=bob)
    assert (found.group_id, found.name, found.joined, found.participant_count) == (group_id, "Rehearsals", True, 2)
    assert conversation_id in await hall.seen(bob)
    await hall.sent(bob, "hello", to=conversation_id)
    assert await hall.texts(bob, conversation_id) == ["hello"]
    assert conversation_id not in await hall.seen(outside)
    unknown = await refused(hall.get(str(uuid.uuid4()), by=outside))
    for call in (
        hall.get(conversation_id, by=outside),
        hall.read(outside, conversation_id),
        hall.send(outside, to=conversation_id),
        hall.taking_part(conversation_id, by=outside),
    ):
        refusal = await refused(call)
        assert refusal.raw == unknown.raw


async def test_only_who_manages_the_group_makes_a_conversation_of_it(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    cy, _ = await hall.newcomer("Cy")
    group_id = await hall.group()
    await hall.put_into(group_id, bob_id)
    for person in (bob, cy):
        call = hall.ask("CreateGroupConversation", by=person, group_id=group_id, name="Ours")
        assert (await refused(call)).reason == "PERMISSION_DENIED"
    unknown = hall.ask("CreateGroupConversation", by=hall.admin, group_id=str(uuid.uuid4()), name="Ours")
    assert (await refused(unknown)).reason == "NOT_FOUND"

    own = await hall.group(by=cy)
    made = await hall.ask("CreateGroupConversation", by=cy, group_id=own, name="Ours")
    # At once: the creator waits for nothing to be written down.
    assert (await hall.get(made.conversation.conversation_id, by=cy)).joined


async def test_an_admin_without_a_role_in_the_group_makes_one_and_does_not_see_it(hall: Hall) -> None:
    cy, cy_id = await hall.newcomer("Cy")
    group_id = await hall.group(by=cy)
    conversation_id = await hall.group_conversation(group_id)

    assert (await refused(hall.get(conversation_id))).reason == "NOT_FOUND"
    assert conversation_id not in await hall.seen(hall.admin)
    assert await hall.taking_part(conversation_id, by=cy) == {cy_id}


async def test_a_role_above_the_group_is_none_in_it(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    top = await hall.group("Top")
    await hall.put_into(top, bob_id, "owner")
    below = await hall.group("Below", parent_group_id=top)
    conversation_id = await hall.group_conversation(below)

    assert (await refused(hall.get(conversation_id, by=bob))).reason == "NOT_FOUND"
    await hall.put_into(below, bob_id)
    await hall.tell_changed(below)
    assert (await hall.get(conversation_id, by=bob)).joined


async def _nothing_of_it(hall: Hall, person: Person, conversation_id: str) -> None:
    """Somebody reads, sends and changes nothing of a conversation, and finds it nowhere."""
    hidden = await refused(hall.get(str(uuid.uuid4()), by=person))
    for call in (
        hall.get(conversation_id, by=person),
        hall.read(person, conversation_id),
        hall.send(person, to=conversation_id),
        hall.taking_part(conversation_id, by=person),
        hall.update(conversation_id, by=person, name="Mine"),
        hall.of("ArchiveConversation", conversation_id, by=person),
        hall.of("JoinConversation", conversation_id, by=person),
        hall.of("LeaveConversation", conversation_id, by=person),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.raw) == (grpc.StatusCode.NOT_FOUND, hidden.raw)
    assert conversation_id not in await hall.seen(person)


@pytest.mark.parametrize("loss", ["removed", "banned", "banned above", "left"])
async def test_who_is_out_of_the_group_is_out_at_once_though_still_written_down(hall: Hall, loss: str) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    top = await hall.group("Top")
    group_id = await hall.group("Choir", parent_group_id=top)
    await hall.put_into(group_id, bob_id)
    conversation_id = await hall.group_conversation(group_id)
    ways = {
        "removed": lambda: hall.take_out(group_id, bob_id),
        "banned": lambda: hall.ban_from(group_id, bob.user_id),
        "banned above": lambda: hall.ban_from(top, bob.user_id),
        "left": lambda: hall.of_group("LeaveGroup", group_id, by=bob),
    }
    async with listening(hall, bob) as his, listening(hall, hall.admin) as others:
        await hall.sent(hall.admin, "before", to=conversation_id)
        await his.until(lambda: his.texts(conversation_id))
        with hall.held_back(group_id):
            await ways[loss]()
            await _nothing_of_it(hall, bob, conversation_id)
            async with listening(hall, bob, resume={conversation_id: 0}) as again:
                assert conversation_id not in again.opened
                await hall.sent(hall.admin, "secret", to=conversation_id)
                await hall.sent(hall.admin, "for everybody")
                await others.until(lambda: "secret" in others.texts(conversation_id))
                for listener in (his, again):
                    await listener.until(lambda heard=listener: "for everybody" in heard.texts(hall.channel_id))
                assert again.has("conversation_lost", conversation_id)
                assert not again.texts(conversation_id)
            assert "secret" not in his.texts(conversation_id)
            await his.until(lambda: his.has("conversation_lost", conversation_id))
            assert (bob_id,) in hall.rows(
                "SELECT member_id::text FROM participants WHERE conversation_id = %s", conversation_id
            )
    if loss == "removed":
        # The twin: in again, and he sees all of it.
        await hall.put_into(group_id, bob_id)
        await hall.tell_changed(group_id)
        assert await hall.texts(bob, conversation_id) == ["before", "secret"]


async def test_who_is_in_the_group_again_gains_it_back_on_an_open_stream(hall: Hall) -> None:
    group_id, conversation_id, bob, bob_id = await choir(hall)
    async with listening(hall, bob) as listener:
        with hall.held_back(group_id):
            await hall.take_out(group_id, bob_id)
            await hall.sent(hall.admin, "secret", to=conversation_id)
            await listener.until(lambda: listener.has("conversation_lost", conversation_id))
            assert listener.texts(conversation_id) == []
            await hall.put_into(group_id, bob_id)
            await listener.until(lambda: listener.has("conversation_gained", conversation_id))
            await hall.sent(hall.admin, "after", to=conversation_id)
            await listener.until(lambda: "after" in listener.texts(conversation_id))
        # From where he was: what he may read again comes as well, and nothing twice.
        assert listener.texts(conversation_id) == ["secret", "after"]


async def test_a_stream_of_who_stays_goes_on_when_somebody_else_is_taken_out(hall: Hall) -> None:
    group_id, conversation_id, bob, _ = await choir(hall)
    _, cy_id = await hall.newcomer("Cy")
    await hall.put_into(group_id, cy_id)
    await hall.tell_changed(group_id)
    async with listening(hall, bob) as listener:
        for number in range(5):
            await hall.sent(hall.admin, f"{number}", to=conversation_id)
        await hall.take_out(group_id, cy_id)
        await hall.tell_changed(group_id)
        await hall.sent(hall.admin, "5", to=conversation_id)
        await listener.until(lambda: "5" in [e.message_created.text for e in listener.events])
        texts = [text for text in listener.texts(conversation_id) if text]
        assert texts == ["0", "1", "2", "3", "4", "5"]
        kinds = [event.WhichOneof("payload") for event in listener.numbered(conversation_id)]
        assert kinds.count("participant_left") == 1
        assert not listener.has("conversation_lost", conversation_id)


async def test_changes_of_the_group_are_written_down_numbered_and_live(hall: Hall) -> None:
    group_id, conversation_id, bob, bob_id = await choir(hall)
    cy, cy_id = await hall.newcomer("Cy")
    async with listening(hall, bob) as his, listening(hall, cy) as hers:
        await hall.put_into(group_id, cy_id)
        await hall.tell_changed(group_id)
        await hers.until(lambda: hers.has("conversation_gained", conversation_id))
        await his.until(lambda: his.numbered(conversation_id))
        assert his.numbered(conversation_id)[-1].participant_joined.member_id == cy_id
        await hall.take_out(group_id, bob_id)
        await hall.tell_changed(group_id)
        await his.until(lambda: his.has("conversation_lost", conversation_id))
    assert await hall.taking_part(conversation_id) == {hall.admin_member_id, cy_id}
    kinds = hall.rows(
        "SELECT kind, member_id::text FROM conversation_events WHERE conversation_id = %s ORDER BY event_seq",
        conversation_id,
    )
    assert kinds == [
        ("participant_joined", bob_id),
        ("participant_joined", cy_id),
        ("participant_left", bob_id),
    ]


class Slow(Membership):
    """What another replica asks, whose first answer takes its time on the way back."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(channel)
        self.answered, self.may_arrive = asyncio.Event(), asyncio.Event()

    async def list_group(self, group_id: str, *, workspace_id: str) -> dict[str, str] | None:
        """As membership's, later."""
        people = await super().list_group(group_id, workspace_id=workspace_id)
        self.answered.set()
        await self.may_arrive.wait()
        return people


async def test_an_older_reading_of_the_group_never_undoes_a_newer_one(hall: Hall) -> None:
    group_id, conversation_id, _, bob_id = await choir(hall)
    frame = hall.suite.frames["messaging"]
    slow = Slow(frame.channels["membership"])
    replica = GroupSyncs(frame.database, slow, on_changed=lambda _id: None, on_sights=lambda _id: None)
    older = asyncio.create_task(replica.sync(await _due(hall, group_id)))
    await slow.answered.wait()
    # It was read with Bob in it. Now he goes, which makes another generation: read, and written down first.
    await hall.take_out(group_id, bob_id)
    await hall.tell_changed(group_id)
    assert await hall.taking_part(conversation_id) == {hall.admin_member_id}
    head = (await hall.get(conversation_id)).last_event_seq
    slow.may_arrive.set()
    await older

    assert await hall.taking_part(conversation_id) == {hall.admin_member_id}
    assert (await hall.get(conversation_id)).last_event_seq == head


async def test_a_reading_of_the_present_generation_is_written_down(hall: Hall) -> None:
    group_id, conversation_id, _, bob_id = await choir(hall)
    frame = hall.suite.frames["messaging"]
    slow = Slow(frame.channels["membership"])
    replica = GroupSyncs(frame.database, slow, on_changed=lambda _id: None, on_sights=lambda _id: None)
    slow.may_arrive.set()
    await hall.take_out(group_id, bob_id)
    await replica.sync(await _due(hall, group_id))
    query = "SELECT member_id::text FROM participants WHERE conversation_id = %s"
    await until(lambda: hall.rows(query, conversation_id) == [(hall.admin_member_id,)])


async def _due(hall: Hall, group_id: str) -> Any:
    """A group's row as it is claimed at this moment."""
    statement = text("""
        SELECT CAST(group_id AS text) AS group_id, CAST(workspace_id AS text) AS workspace_id, generation
        FROM group_syncs WHERE group_id = :group_id
    """)

    async def read(tx: AsyncConnection) -> Any:
        return (await tx.execute(statement, {"group_id": group_id})).one()

    return await hall.suite.frames["messaging"].database.read(read)


async def test_two_events_about_a_group_come_to_what_the_group_is(hall: Hall) -> None:
    group_id, conversation_id, _, bob_id = await choir(hall)
    people = [await hall.newcomer(name) for name in ("Cy", "Dee")]
    for _, member_id in people:
        await hall.put_into(group_id, member_id)
    changed = events.GroupMembershipChanged(workspace_id=hall.workspace_id, group_ids=[group_id])
    await asyncio.gather(
        *(
            deliver(
                hall.suite, events.Event(group_membership_changed=changed), source="membership", to="messaging", times=2
            )
            for _ in range(4)
        )
    )
    await hall.until_synced(group_id)
    everybody = {hall.admin_member_id, bob_id, *(member_id for _, member_id in people)}
    assert await hall.taking_part(conversation_id) == everybody
    assert (await hall.get(conversation_id)).last_event_seq == 3


async def test_a_reading_that_fails_is_put_back_and_done_later(hall: Hall) -> None:
    group_id, conversation_id, _, _ = await choir(hall)
    _, cy_id = await hall.newcomer("Cy")
    await hall.put_into(group_id, cy_id)
    await hall.suite.stop("membership")
    try:
        changed = events.GroupMembershipChanged(workspace_id=hall.workspace_id, group_ids=[group_id])
        await deliver(hall.suite, events.Event(group_membership_changed=changed), source="membership", to="messaging")
        query = "SELECT due_at > statement_timestamp() FROM group_syncs WHERE group_id = %s"
        await until(lambda: hall.rows(query, group_id) == [(True,)])
    finally:
        await hall.back("membership")
    await hall.until_synced(group_id)
    assert cy_id in await hall.taking_part(conversation_id)


async def test_an_event_about_a_group_without_conversations_leaves_nothing(hall: Hall) -> None:
    group_id = await hall.group()
    changed = events.GroupMembershipChanged(workspace_id=hall.workspace_id, group_ids=[group_id])
    await deliver(hall.suite, events.Event(group_membership_changed=changed), source="membership", to="messaging")
    assert hall.rows("SELECT 1 FROM group_syncs WHERE group_id = %s", group_id) == []


async def test_a_deleted_groups_conversations_go_with_all_that_is_in_them(hall: Hall) -> None:
    group_id, conversation_id, bob, _ = await choir(hall)
    kept = await hall.group_conversation(await hall.group("Other"))
    await hall.sent(bob, "hello", to=conversation_id)
    deleted = events.GroupDeleted(workspace_id=hall.workspace_id, group_ids=[group_id])
    async with listening(hall, bob) as listener:
        assert conversation_id in listener.opened
        await deliver(hall.suite, events.Event(group_deleted=deleted), source="membership", to="messaging", times=2)
        await until(lambda: not hall.rows("SELECT 1 FROM conversations WHERE id = %s", conversation_id))
        await listener.until(lambda: listener.has("conversation_lost", conversation_id))
    for table in ("messages", "participants", "conversation_events"):
        assert hall.rows(f"SELECT 1 FROM {table} WHERE conversation_id = %s", conversation_id) == []
    await until(lambda: not hall.rows("SELECT 1 FROM group_syncs WHERE group_id = %s", group_id))
    assert (await hall.get(kept)).joined


async def test_a_conversation_that_outlived_its_group_goes_as_soon_as_the_group_is_read(hall: Hall) -> None:
    group_id, conversation_id, _, _ = await choir(hall)
    with hall.suite.database("membership") as database:
        database.execute("DELETE FROM groups WHERE id = %s", [group_id])
    changed = events.GroupMembershipChanged(workspace_id=hall.workspace_id, group_ids=[group_id])
    await deliver(hall.suite, events.Event(group_membership_changed=changed), source="membership", to="messaging")
    await until(lambda: not hall.rows("SELECT 1 FROM conversations WHERE id = %s", conversation_id))


async def test_a_large_group_is_written_down_in_steps(hall: Hall) -> None:
    group_id, conversation_id, _, _ = await choir(hall)
    size = STEP + 10
    strangers = "SELECT %s, gen_random_uuid(), gen_random_uuid(), %s FROM generate_series(1, %s)"
    hall.rows(
        f"INSERT INTO participants (conversation_id, member_id, user_id, workspace_id) {strangers}",
        conversation_id,
        hall.workspace_id,
        size,
    )
    before = (await hall.get(conversation_id)).last_event_seq
    await hall.tell_changed(group_id)
    after = await hall.get(conversation_id)
    assert (after.participant_count, after.last_event_seq - before) == (2, size)


async def test_messages_to_channels_cost_no_statement_and_no_question_more(hall: Hall) -> None:
    _, conversation_id, _, _ = await choir(hall)
    for place in (hall.channel_id, conversation_id):
        await hall.sent(hall.admin, to=place)
    for place in (hall.channel_id, conversation_id):
        with statements_sent() as sent:
            await hall.sent(hall.admin, to=place)
        own = [each.text for each in sent if each.service == "messaging" and "FROM unnest" in each.text]
        looked_up = [each.text for each in sent if "coalesce(CAST(group_id AS text), '')" in each.text]
        decided = [each.text for each in sent if each.service == "membership" and "group_members gm" in each.text]
        assert any("INSERT INTO messages" in text for text in own)
        assert not looked_up
        assert bool(decided) == (place == conversation_id)


async def test_a_groups_conversation_is_changed_by_who_manages_the_group(hall: Hall) -> None:
    group_id, conversation_id, bob, bob_id = await choir(hall)
    assert (await refused(hall.update(conversation_id, by=bob, name="Ours"))).reason == "PERMISSION_DENIED"
    await hall.of_group("UpdateGroupMemberRole", group_id, member_id=bob_id, role="owner")
    assert (await hall.update(conversation_id, by=bob, name="Ours")).name == "Ours"
    refusal = await refused(hall.update(conversation_id, by=bob, visibility=1))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONVERSATION_KIND")


@pytest.mark.parametrize("method", ["JoinConversation", "LeaveConversation", "AddParticipant", "RemoveParticipant"])
async def test_who_takes_part_in_a_groups_conversation_is_the_groups_to_say(hall: Hall, method: str) -> None:
    _, conversation_id, _, bob_id = await choir(hall)
    more = {"member_id": bob_id} if method.endswith("Participant") else {}
    assert (await refused(hall.of(method, conversation_id, **more))).reason == "CONVERSATION_KIND"


async def test_a_guest_is_let_into_no_groups_conversation(hall: Hall) -> None:
    _, conversation_id, _, _ = await choir(hall)
    assert (await refused(hall.invite(conversation_id))).reason == "NOT_FOUND"
