"""Channels: joining, leaving, adding, removing, changing, archiving; and what it does to streams and sends."""

import asyncio
import json
import uuid
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import conversation_service_pb2 as pb

from tests.service.test_messaging_streams import listening
from tests.support.conversations import Hall, key, new_hall
from tests.support.outboxes import written
from tests.support.suite import Person, Suite, refusal_of, refused

PRIVATE, PUBLIC = pb.VISIBILITY_PRIVATE, pb.VISIBILITY_PUBLIC


@pytest.fixture
async def hall(suite: Suite) -> Hall:
    """A workspace of this test's own."""
    return await new_hall(suite)


async def private_with(hall: Hall, *member_ids: str, owner: Person | None = None) -> str:
    """A private channel with people in it."""
    channel = await hall.channel(owner, private=True)
    for member_id in member_ids:
        await hall.of("AddParticipant", channel, by=owner, member_id=member_id)
    return channel


async def test_whoever_sees_a_public_channel_joins_it_once(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob", "viewer")
    request_id = key()
    first = await hall.of("JoinConversation", hall.channel_id, by=bob, request_id=request_id)
    for again in (request_id, key(), ""):
        assert await hall.of("JoinConversation", hall.channel_id, by=bob, request_id=again) == first
    assert (first.participant.member_id, first.participant.user_id) == (bob_id, bob.user_id)
    assert bob_id in await hall.taking_part(hall.channel_id)
    assert (await hall.get(hall.channel_id, by=bob)).last_event_seq == 1


async def test_a_private_channel_is_not_joined_and_looks_like_none(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    hidden = await private_with(hall)
    refusals = [
        await refused(hall.of(method, conversation_id, by=bob, **more))
        for conversation_id in (hidden, str(uuid.uuid4()))
        for method, more in (
            ("JoinConversation", {}),
            ("LeaveConversation", {}),
            ("AddParticipant", {"member_id": bob_id}),
            ("RemoveParticipant", {"member_id": hall.admin_member_id}),
            ("ArchiveConversation", {}),
            ("ListParticipants", {}),
            ("GetConversation", {}),
        )
    ]
    assert {refusal.raw for refusal in refusals} == {refusals[0].raw}
    assert refusals[0].code == grpc.StatusCode.NOT_FOUND


async def test_leaving_a_private_channel_takes_it_out_of_sight_of_who_leaves(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    channel = await private_with(hall, bob_id)
    async with listening(hall, bob) as his, listening(hall, hall.admin) as others:
        await hall.of("LeaveConversation", channel, by=bob)
        await hall.sent(hall.admin, "secret", to=channel)
        await others.until(lambda: len(others.numbered(channel)) >= 2)
        await his.until(lambda: his.has("conversation_lost", channel))
        assert not his.numbered(channel)
        assert others.numbered(channel)[0].participant_left.member_id == bob_id
    for call in (hall.get(channel, by=bob), hall.read(bob, channel), hall.send(bob, to=channel)):
        assert (await refused(call)).reason == "NOT_FOUND"


async def test_leaving_a_public_channel_takes_nothing_out_of_sight(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    await hall.of("JoinConversation", hall.channel_id, by=bob)
    for _ in range(2):
        await hall.of("LeaveConversation", hall.channel_id, by=bob)
    found = await hall.get(hall.channel_id, by=bob)
    assert (found.joined, found.last_event_seq) == (False, 2)
    assert bob_id not in await hall.taking_part(hall.channel_id)


async def test_a_guest_neither_joins_nor_leaves_nor_brings_anybody(hall: Hall) -> None:
    guest, _ = await hall.guest()
    _, bob_id = await hall.newcomer("Bob")
    for method, more in (
        ("JoinConversation", {}),
        ("LeaveConversation", {}),
        ("AddParticipant", {"member_id": bob_id}),
        ("RemoveParticipant", {"member_id": hall.admin_member_id}),
        ("ArchiveConversation", {}),
    ):
        refusal = await refused(hall.of(method, hall.channel_id, by=guest, **more))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert await hall.taking_part(hall.channel_id, by=guest) == {hall.admin_member_id}


async def test_who_is_added_gains_the_channel_on_an_open_stream_at_once(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    channel = await private_with(hall)
    async with listening(hall, bob) as listener:
        request_id = key()
        first = await hall.of("AddParticipant", channel, member_id=bob_id, request_id=request_id)
        assert await hall.of("AddParticipant", channel, member_id=bob_id, request_id=request_id) == first
        assert await hall.of("AddParticipant", channel, member_id=bob_id) == first
        await listener.until(lambda: listener.has("conversation_gained", channel))
        await hall.sent(hall.admin, "welcome", to=channel)
        await listener.until(lambda: "welcome" in listener.texts(channel))
    assert (await hall.get(channel, by=bob)).last_event_seq == 2


async def test_people_are_added_by_who_takes_part_and_sends_or_by_who_manages(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    cy, cy_id = await hall.newcomer("Cy")
    eve, eve_id = await hall.newcomer("Eve", "viewer")
    _, dee_id = await hall.newcomer("Dee")
    # Seen, but Bob takes no part in it; Eve does, and may not send.
    await hall.of("JoinConversation", hall.channel_id, by=eve)
    for person in (bob, eve):
        call = hall.of("AddParticipant", hall.channel_id, by=person, member_id=dee_id)
        assert (await refused(call)).reason == "PERMISSION_DENIED"
    await hall.of("JoinConversation", hall.channel_id, by=bob)
    await hall.of("AddParticipant", hall.channel_id, by=bob, member_id=dee_id)
    # An admin, who takes no part in it.
    other = await hall.channel(cy)
    await hall.of("AddParticipant", other, by=hall.admin, member_id=eve_id)
    assert await hall.taking_part(other) == {cy_id, eve_id}
    assert {bob_id, dee_id} <= await hall.taking_part(hall.channel_id)


async def test_only_active_full_members_are_added_and_the_others_are_told_apart_from_nobody(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    _, as_guest = await hall.guest()
    await hall.change_member("SuspendMember", bob_id)
    channel = await private_with(hall)
    refusals = [
        await refused(hall.of("AddParticipant", channel, member_id=member_id))
        for member_id in (bob_id, as_guest.member_id, str(uuid.uuid4()))
    ]
    assert {(refusal.code, refusal.raw) for refusal in refusals} == {(grpc.StatusCode.NOT_FOUND, refusals[0].raw)}
    await hall.change_member("ReinstateMember", bob_id)
    await hall.of("AddParticipant", channel, member_id=bob_id)
    assert await hall.taking_part(channel, by=bob) == {hall.admin_member_id, bob_id}


async def test_people_are_removed_by_who_made_the_channel_or_manages(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    cy, cy_id = await hall.newcomer("Cy")
    _, dee_id = await hall.newcomer("Dee")
    channel = await private_with(hall, cy_id, dee_id, hall.admin_member_id, owner=bob)
    refusal = await refused(hall.of("RemoveParticipant", channel, by=cy, member_id=dee_id))
    assert refusal.reason == "PERMISSION_DENIED"
    async with listening(hall, cy) as listener:
        await hall.of("RemoveParticipant", channel, by=bob, member_id=cy_id)
        await hall.sent(bob, "secret", to=channel)
        await listener.until(lambda: listener.has("conversation_lost", channel))
        assert not listener.numbered(channel)
    request_id = key()
    for _ in range(2):
        await hall.of("RemoveParticipant", channel, member_id=dee_id, request_id=request_id)
    gone = await refused(hall.of("RemoveParticipant", channel, member_id=dee_id))
    assert gone.reason == "NOT_FOUND"
    assert await hall.taking_part(channel) == {bob_id, hall.admin_member_id}


async def test_a_send_in_flight_of_who_is_removed_is_stored_before_it_or_not_at_all(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    channel = await private_with(hall, bob_id)
    for _ in range(5):
        sending = [asyncio.create_task(_outcome(hall.send(bob, f"{n}", to=channel))) for n in range(20)]
        await hall.of("RemoveParticipant", channel, member_id=bob_id)
        (removed_at,) = hall.rows(
            "SELECT max(event_seq) FROM conversation_events WHERE conversation_id = %s AND kind = 'participant_left'",
            channel,
        )[0]
        outcomes = await asyncio.gather(*sending)
        assert set(outcomes) <= {"", "NOT_FOUND"}
        assert await _outcome(hall.send(bob, "late", to=channel)) == "NOT_FOUND"
        latest = hall.rows(
            "SELECT coalesce(max(event_seq), 0) FROM messages WHERE conversation_id = %s AND sender_user_id = %s",
            channel,
            bob.user_id,
        )[0][0]
        assert latest < removed_at
        await hall.of("AddParticipant", channel, member_id=bob_id)
        assert await _outcome(hall.send(bob, "again", to=channel)) == ""


async def _outcome(call: Any) -> str:
    """The reason of a refusal; empty for an answer."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason
    return ""


async def test_joins_leaves_and_archiving_at_once_leave_dense_events_that_add_up(hall: Hall) -> None:
    people = [await hall.newcomer(name) for name in ("Bob", "Cy", "Dee", "Eve")]

    async def comes_and_goes(person: Person) -> None:
        for _ in range(6):
            await _outcome(hall.of("JoinConversation", hall.channel_id, by=person))
            await hall.of("LeaveConversation", hall.channel_id, by=person)

    async def archives() -> None:
        for turn in range(6):
            await hall.of("ArchiveConversation", hall.channel_id, unarchive=bool(turn % 2))

    await asyncio.gather(*(comes_and_goes(person) for person, _ in people), archives())

    happened = hall.rows(
        "SELECT event_seq, kind, member_id::text FROM conversation_events"
        " WHERE conversation_id = %s ORDER BY event_seq",
        hall.channel_id,
    )
    assert [number for number, _, _ in happened] == list(range(1, len(happened) + 1))
    assert (await hall.get(hall.channel_id)).last_event_seq == len(happened)
    for _, member_id in people:
        own = [kind for _, kind, whose in happened if whose == member_id]
        assert own == ["participant_joined", "participant_left"] * (len(own) // 2)
    archived = False
    for _, kind, _ in happened:
        archived ^= kind == "conversation_updated"
        assert not (archived and kind == "participant_joined")
    assert await hall.taking_part(hall.channel_id) == {hall.admin_member_id}


async def test_what_the_mask_names_is_changed_and_nothing_else(hall: Hall) -> None:
    before = await hall.get(hall.channel_id)
    kept = await hall.update(hall.channel_id, "topic", name="Ignored", topic="What we do")
    assert (kept.name, kept.topic, kept.etag != before.etag) == (before.name, "What we do", True)
    changed = await hall.update(hall.channel_id, name="New", visibility=PRIVATE, retention=Duration(seconds=86_400))
    assert (changed.name, changed.topic, changed.visibility) == ("New", "What we do", PRIVATE)
    assert changed.retention.seconds == 86_400
    unset = await hall.update(hall.channel_id, "retention", "topic")
    assert (unset.HasField("retention"), unset.topic) == (False, "")
    assert (await hall.get(hall.channel_id)).etag == unset.etag


@pytest.mark.parametrize(
    ("paths", "fields", "where"),
    [
        (["*"], {}, "update_mask"),
        (["kind"], {}, "update_mask"),
        (["name", "last_message.text"], {"name": "x"}, "update_mask"),
        (["name"], {}, "conversation.name"),
        (["visibility"], {}, "conversation.visibility"),
        (["retention"], {"retention": Duration(seconds=3600, nanos=1)}, "conversation.retention"),
        (["retention"], {"retention": Duration(seconds=3599)}, "conversation.retention"),
        (["topic"], {"topic": "x" * 1001}, "conversation.topic"),
    ],
)
async def test_a_wrong_mask_or_value_is_named(hall: Hall, paths: list[str], fields: dict[str, Any], where: str) -> None:
    refusal = await refused(hall.update(hall.channel_id, *paths, **fields))
    assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {where})


async def test_an_etag_of_before_is_refused_and_the_present_one_is_not(hall: Hall) -> None:
    old = (await hall.get(hall.channel_id)).etag
    new = (await hall.update(hall.channel_id, "name", name="One", etag=old)).etag
    for call in (
        hall.update(hall.channel_id, "name", name="Two", etag=old),
        hall.of("ArchiveConversation", hall.channel_id, etag=old),
    ):
        assert (await refused(call)).reason == "ETAG_MISMATCH"
    assert (await hall.update(hall.channel_id, "name", name="Two", etag=new)).name == "Two"


async def test_a_channel_is_changed_by_who_made_it_or_manages(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    cy, _ = await hall.newcomer("Cy")
    channel = await hall.channel(bob)
    await hall.of("JoinConversation", channel, by=cy)
    for call in (
        hall.update(channel, by=cy, name="Mine"),
        hall.of("ArchiveConversation", channel, by=cy),
        hall.of("RemoveParticipant", channel, by=cy, member_id=bob_id),
    ):
        assert (await refused(call)).reason == "PERMISSION_DENIED"
    for person in (bob, hall.admin):
        await hall.update(channel, by=person, name=person.name)
        await hall.of("ArchiveConversation", channel, by=person)
        await hall.of("ArchiveConversation", channel, by=person, unarchive=True)


async def test_a_channel_made_private_is_lost_by_who_takes_no_part_and_kept_by_the_rest(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    cy, _ = await hall.newcomer("Cy")
    guest, _ = await hall.guest()
    await hall.of("JoinConversation", hall.channel_id, by=bob)
    async with listening(hall, bob) as his, listening(hall, cy) as hers, listening(hall, guest) as theirs:
        await hall.update(hall.channel_id, visibility=PRIVATE)
        await hall.sent(hall.admin, "secret")
        await hers.until(lambda: hers.has("conversation_lost", hall.channel_id))
        for listener in (his, theirs):
            await listener.until(lambda heard=listener: len(heard.numbered(hall.channel_id)) >= 2)
            updated = next(e for e in listener.events if e.WhichOneof("payload") == "conversation_updated")
            assert updated.conversation_updated.visibility == PRIVATE
        assert not [e for e in hers.numbered(hall.channel_id) if e.WhichOneof("payload") == "message_created"]
        for call in (hall.read(cy), hall.send(cy), hall.get(hall.channel_id, by=cy)):
            assert (await refused(call)).reason == "NOT_FOUND"
        await hall.update(hall.channel_id, visibility=PUBLIC)
        await hers.until(lambda: hers.has("conversation_gained", hall.channel_id))
    assert await hall.texts(cy) == ["secret"]
    assert await hall.texts(guest) == ["secret"]
    assert bob_id in await hall.taking_part(hall.channel_id)


async def test_what_is_archived_can_be_read_and_left_and_nothing_else_until_it_is_taken_back(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    cy, cy_id = await hall.newcomer("Cy")
    channel = await private_with(hall, bob_id, cy_id)
    await hall.sent(bob, "before", to=channel)
    archived = (await hall.of("ArchiveConversation", channel)).conversation
    assert archived.HasField("archive_time")
    for call in (
        hall.send(bob, to=channel),
        hall.update(channel, name="Other"),
        hall.of("JoinConversation", channel),
        hall.of("AddParticipant", channel, member_id=bob_id),
        hall.of("RemoveParticipant", channel, member_id=bob_id),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONVERSATION_ARCHIVED")
    assert await hall.texts(bob, channel) == ["before"]
    await hall.of("LeaveConversation", channel, by=cy)
    assert await hall.taking_part(channel) == {hall.admin_member_id, bob_id}

    assert (await hall.of("ArchiveConversation", channel)).conversation.etag == archived.etag
    back = (await hall.of("ArchiveConversation", channel, unarchive=True)).conversation
    assert not back.HasField("archive_time")
    await hall.sent(bob, "after", to=channel)
    await hall.update(channel, name="Other")
    await hall.of("AddParticipant", channel, member_id=cy_id)


async def test_an_update_is_made_once_by_its_key(hall: Hall) -> None:
    wanted = pb.Conversation(workspace_id=hall.workspace_id, conversation_id=hall.channel_id, name="Once")
    fields: dict[str, Any] = {"conversation": wanted, "update_mask": {"paths": ["name"]}, "request_id": key()}
    first = await hall.ask("UpdateConversation", **fields)
    await hall.update(hall.channel_id, name="Twice")
    assert await hall.ask("UpdateConversation", **fields) == first
    assert (await hall.get(hall.channel_id)).name == "Twice"
    wanted.name = "Another"
    assert (await refused(hall.ask("UpdateConversation", **fields))).reason == "IDEMPOTENCY_MISMATCH"


async def test_everything_is_told_to_the_activity_log_without_a_name_or_a_text(hall: Hall) -> None:
    _, bob_id = await hall.newcomer("Bob")
    with written(hall.suite, "messaging") as outbox:
        made = await hall.ask("CreateChannel", name="Sesame", topic="Sesame", visibility=PRIVATE)
        channel = made.conversation.conversation_id
        await hall.of("AddParticipant", channel, member_id=bob_id)
        await hall.update(channel, name="Sesame street", topic="Sesame", visibility=PUBLIC)
        for unarchive in (False, False, True):
            await hall.of("ArchiveConversation", channel, unarchive=unarchive)
        await hall.of("RemoveParticipant", channel, member_id=bob_id)
        told = [event.activity_recorded for event in outbox.events() if event.HasField("activity_recorded")]
    own = [activity for activity in told if activity.target_id == channel]
    assert [activity.action for activity in own] == [
        "conversation.created",
        "participant.added",
        "conversation.updated",
        "conversation.archived",
        "conversation.unarchived",
        "participant.removed",
    ]
    assert {activity.actor_user_id for activity in own} == {hall.admin.user_id}
    assert json.loads(own[2].metadata_json)["after"] == {
        "visibility": "public",
        "retention_seconds": 0,
        "changed": ["name", "topic", "visibility"],
    }
    assert not [activity for activity in own if "Sesame" in str(activity)]


async def test_a_member_who_goes_leaves_every_conversation_by_a_numbered_event(hall: Hall) -> None:
    _, bob_id = await hall.newcomer("Bob")
    channel = await private_with(hall, bob_id)
    async with listening(hall, hall.admin) as listener:
        await hall.remove(bob_id)
        await listener.until(lambda: listener.numbered(channel))
        assert listener.numbered(channel)[-1].participant_left.member_id == bob_id
    assert await hall.taking_part(channel) == {hall.admin_member_id}


async def test_a_viewer_who_made_a_channel_once_no_longer_changes_it(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    channel = await hall.channel(bob)
    await hall.change_member("UpdateMemberRole", bob_id, role=members.ROLE_VIEWER)
    assert (await refused(hall.update(channel, by=bob, name="Mine"))).reason == "PERMISSION_DENIED"
    await hall.change_member("UpdateMemberRole", bob_id, role=members.ROLE_MEMBER)
    assert (await hall.update(channel, by=bob, name="Mine")).name == "Mine"


async def test_a_locked_guest_still_reads_who_takes_part_and_changes_nothing(hall: Hall) -> None:
    guest, as_guest = await hall.guest()
    hall.lock(as_guest)
    assert (await refused(hall.update(hall.channel_id, by=guest, name="Mine"))).reason == "GUEST_LOCKED"
    assert await hall.taking_part(hall.channel_id, by=guest) == {hall.admin_member_id}
    assert (await hall.get(hall.channel_id, by=guest)).participant_count == 0
    hall.end(as_guest)
    assert (await refused(hall.get(hall.channel_id, by=guest))).reason == "NOT_FOUND"
