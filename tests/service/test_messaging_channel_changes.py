"""Changes of channels: by whom, what the mask names, visibility, archiving, and what the activity log is told."""

import json
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import conversation_service_pb2 as pb

from tests.service.test_messaging_channels import private_with
from tests.service.test_messaging_streams import listening
from tests.support.conversations import Hall, key, new_hall
from tests.support.deliveries import until
from tests.support.outboxes import written
from tests.support.statements import Statement, statements_sent
from tests.support.suite import Suite, refused

ABANDONED = "NOT EXISTS (SELECT FROM participants p WHERE p.conversation_id = c.id)"
PRIVATE, PUBLIC = pb.VISIBILITY_PRIVATE, pb.VISIBILITY_PUBLIC


@pytest.fixture
async def hall(suite: Suite) -> Hall:
    """A workspace of this test's own."""
    return await new_hall(suite)


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
    async with written(hall.suite, "messaging") as outbox:
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
    assert await hall.taking_part(hall.channel_id, by=guest) == {hall.admin_member_id, as_guest.member_id}
    assert (await hall.get(hall.channel_id, by=guest)).participant_count == 0
    hall.end(as_guest)
    assert (await refused(hall.get(hall.channel_id, by=guest))).reason == "NOT_FOUND"


async def abandoned(hall: Hall, **fields: Any) -> list[pb.Conversation]:
    """The channels that nobody sees."""
    return list((await hall.ask("ListConversations", abandoned=True, **fields)).conversations)


def looked_for(sent: list[Statement]) -> list[Statement]:
    """The statements that read which channels are abandoned."""
    return [each for each in sent if each.rpc == "ListConversations" and ABANDONED in each.text]


async def test_a_private_channel_that_everybody_left_is_found_and_joined_by_who_manages(hall: Hall) -> None:
    bob, _ = await hall.newcomer("Bob")
    cy, cy_id = await hall.newcomer("Cy")
    left, gone = await hall.channel(bob, private=True), await hall.channel(cy, private=True)
    kept = await hall.channel(bob, private=True)
    await hall.sent(bob, "secret", to=left)
    assert await abandoned(hall) == []
    await hall.of("LeaveConversation", left, by=bob)
    await hall.remove(cy_id)
    await until(lambda: hall.rows("SELECT 1 FROM participants WHERE member_id = %s", cy_id) == [])
    found = await abandoned(hall)
    assert [each.conversation_id for each in found] == sorted([left, gone])
    # What was said there is not theirs as long as they take no part.
    assert not any(each.HasField("last_message") for each in found)
    for call in (hall.get(left), hall.read(hall.admin, left), hall.of("JoinConversation", left)):
        assert (await refused(call)).reason == "NOT_FOUND"
    renamed = await hall.update(left, name="Found again")
    assert (renamed.name, renamed.HasField("last_message")) == ("Found again", False)
    await hall.of("AddParticipant", left, member_id=hall.admin_member_id)
    assert await hall.texts(hall.admin, left) == ["secret"]
    await hall.of("ArchiveConversation", gone)
    assert [each.conversation_id for each in await abandoned(hall, archived=True)] == [gone]
    assert await abandoned(hall) == []
    # Where somebody takes part it is theirs alone.
    for call in (hall.update(kept, name="Mine"), hall.of("AddParticipant", kept, member_id=hall.admin_member_id)):
        assert (await refused(call)).reason == "NOT_FOUND"


async def test_guests_go_on_in_an_abandoned_channel_and_making_it_public_shows_it_to_all(hall: Hall) -> None:
    bob, _ = await hall.newcomer("Bob")
    left = await hall.channel(private=True)
    guest, _ = await hall.guest(left)
    await hall.of("LeaveConversation", left)
    await hall.sent(guest, "anybody there?", to=left)
    assert await hall.texts(guest, left) == ["anybody there?"]
    assert [each.conversation_id for each in await abandoned(hall)] == [left]
    await hall.update(left, visibility=PUBLIC)
    assert await hall.texts(bob, left) == ["anybody there?"]


async def test_what_is_abandoned_is_for_who_manages_alone(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    guest, _ = await hall.guest()
    left = await hall.channel(bob, private=True)
    await hall.of("LeaveConversation", left, by=bob)
    with statements_sent() as sent:
        for person in (bob, guest):
            refusal = await refused(hall.ask("ListConversations", by=person, abandoned=True))
            assert refusal.reason == "PERMISSION_DENIED"
        assert (await refused(hall.ask("ListConversations", by=hall.outsider(), abandoned=True))).reason == "NOT_FOUND"
    # Nor are they looked for on behalf of anybody else.
    assert not looked_for(sent)
    with statements_sent() as sent:
        assert await abandoned(hall)
    assert looked_for(sent)
    for method in ("AddParticipant", "ArchiveConversation"):
        fields = {"member_id": bob_id} if method == "AddParticipant" else {}
        assert (await refused(hall.of(method, left, by=bob, **fields))).reason == "NOT_FOUND"
