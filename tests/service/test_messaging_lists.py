"""Lists: conversations as one stands in them, who takes part, and what guest asks of it."""

import uuid
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from guildhall.messaging.v1 import conversation_service_pb2 as pb
from guildhall.messaging.v1 import conversation_service_pb2_grpc as rpc

from tests.support.conversations import Hall, new_hall
from tests.support.statements import statements_sent
from tests.support.suite import Person, Suite, refused


@pytest.fixture
async def hall(suite: Suite) -> Hall:
    """A workspace of this test's own."""
    return await new_hall(suite)


async def listed(hall: Hall, person: Person, **fields: Any) -> dict[str, pb.Conversation]:
    """ListConversations by id."""
    found = (await hall.ask("ListConversations", by=person, **fields)).conversations
    return {conversation.conversation_id: conversation for conversation in found}


def mark_read(hall: Hall, person: Person, member_id: str, conversation_id: str, seq: int) -> None:
    """How far somebody has read."""
    hall.rows(
        "INSERT INTO read_states (conversation_id, member_id, user_id, workspace_id, read_seq) VALUES"
        " (%s, %s, %s, %s, %s) ON CONFLICT (conversation_id, member_id) DO UPDATE SET read_seq = EXCLUDED.read_seq",
        conversation_id,
        member_id,
        person.user_id,
        hall.workspace_id,
        seq,
    )


def fill(hall: Hall, conversation_id: str, count: int) -> None:
    """Messages of a stranger's, so many that sending them would take long."""
    hall.rows(
        "INSERT INTO messages (conversation_id, seq, event_seq, id, sender_member_id, sender_user_id,"
        " client_message_id, text) SELECT %s, n, n, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(),"
        " gen_random_uuid(), 'x' FROM generate_series(1, %s) n",
        conversation_id,
        count,
    )
    hall.rows(
        "UPDATE conversations SET last_seq = %s, last_event_seq = %s WHERE id = %s", count, count, conversation_id
    )


async def test_unread_are_the_messages_of_others_after_the_read_position(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    await hall.sent(hall.admin, "before he joined")
    await hall.of("JoinConversation", hall.channel_id, by=bob)
    assert (await hall.get(hall.channel_id, by=bob)).unread_count == 0
    for number in range(4):
        await hall.sent(hall.admin, f"{number}")
    await hall.sent(bob, "his own")

    async def standing() -> tuple[bool, int, int]:
        got, found = await hall.get(hall.channel_id, by=bob), (await listed(hall, bob))[hall.channel_id]
        for name in ("joined", "read_seq", "unread_count", "last_message"):
            assert getattr(got, name) == getattr(found, name)
        return got.joined, got.read_seq, got.unread_count

    assert await standing() == (True, 0, 4)
    mark_read(hall, bob, bob_id, hall.channel_id, 3)
    assert await standing() == (True, 3, 2)
    hall.rows(
        "UPDATE messages SET text = NULL, deleted_at = statement_timestamp() WHERE conversation_id = %s AND seq = 4",
        hall.channel_id,
    )
    assert await standing() == (True, 3, 1)
    await hall.update(hall.channel_id, retention=Duration(seconds=3600))
    hall.rows(
        "UPDATE messages SET created_at = created_at - interval '2 hours' WHERE conversation_id = %s AND seq <= 5",
        hall.channel_id,
    )
    assert await standing() == (True, 3, 0)
    mark_read(hall, bob, bob_id, hall.channel_id, 0)
    assert await standing() == (True, 0, 0)


async def test_who_never_joined_has_nothing_unread_unless_they_read_once(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    await hall.sent(hall.admin, "one")
    await hall.sent(hall.admin, "two")
    found = await hall.get(hall.channel_id, by=bob)
    assert (found.joined, found.unread_count, found.last_message.text) == (False, 0, "two")
    mark_read(hall, bob, bob_id, hall.channel_id, 1)
    assert (await hall.get(hall.channel_id, by=bob)).unread_count == 1


async def test_a_guest_has_all_unread_until_they_read(hall: Hall) -> None:
    await hall.sent(hall.admin, "one")
    await hall.sent(hall.admin, "two")
    guest, as_guest = await hall.guest()
    assert (await hall.get(hall.channel_id, by=guest)).unread_count == 2
    assert (await listed(hall, guest))[hall.channel_id].unread_count == 2
    mark_read(hall, guest, as_guest.member_id, hall.channel_id, 1)
    assert (await listed(hall, guest))[hall.channel_id].unread_count == 1


async def test_more_than_a_thousand_unread_are_a_thousand(hall: Hall) -> None:
    fill(hall, hall.channel_id, 1005)
    for read, unread in ((0, 0), (4, 1000), (5, 1000), (6, 999)):
        if read:
            mark_read(hall, hall.admin, hall.admin_member_id, hall.channel_id, read)
            assert (await hall.get(hall.channel_id)).unread_count == unread


async def test_what_a_former_stay_had_read_or_joined_is_not_the_present_ones(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    await hall.of("JoinConversation", hall.channel_id, by=bob)
    await hall.sent(hall.admin)
    mark_read(hall, bob, bob_id, hall.channel_id, 1)
    await hall.remove(bob_id)
    await hall.newcomer("Bob")
    found = await hall.get(hall.channel_id, by=bob)
    assert (found.joined, found.read_seq, found.unread_count) == (False, 0, 0)


async def test_the_last_message_may_be_a_tombstone_and_is_none_past_the_retention(hall: Hall) -> None:
    assert not (await hall.get(hall.channel_id)).HasField("last_message")
    sent = await hall.sent(hall.admin, "gone")
    assert (await hall.get(hall.channel_id)).last_message.message_id == sent.message_id
    hall.rows(
        "UPDATE messages SET text = NULL, deleted_at = statement_timestamp() WHERE conversation_id = %s",
        hall.channel_id,
    )
    last = (await hall.get(hall.channel_id)).last_message
    assert (last.text, last.HasField("delete_time")) == ("", True)
    await hall.update(hall.channel_id, retention=Duration(seconds=3600))
    hall.rows(
        "UPDATE messages SET created_at = created_at - interval '2 hours' WHERE conversation_id = %s", hall.channel_id
    )
    assert not (await hall.get(hall.channel_id)).HasField("last_message")


@pytest.mark.parametrize("as_guest", [False, True])
async def test_a_long_list_takes_as_many_statements_as_a_short_one(hall: Hall, as_guest: bool) -> None:
    async def grow(count: int) -> None:
        made = hall.rows(
            "INSERT INTO conversations (id, workspace_id, kind, name, visibility, created_by_member_id) SELECT"
            " gen_random_uuid(), %s, 'channel', 'c', 'public', %s FROM generate_series(1, %s) RETURNING id::text",
            hall.workspace_id,
            hall.admin_member_id,
            count,
        )
        for (conversation_id,) in made:
            fill(hall, conversation_id, 3)
            hall.rows(
                "INSERT INTO participants (conversation_id, member_id, user_id, workspace_id, joined_at)"
                " VALUES (%s, %s, %s, %s, statement_timestamp() - interval '1 day')",
                conversation_id,
                hall.admin_member_id,
                hall.admin.user_id,
                hall.workspace_id,
            )

    async def statements(person: Person, expected: int) -> int:
        with statements_sent() as sent:
            found = await listed(hall, person, page_size=200)
        assert len(found) == expected
        counts = {c.unread_count for key, c in found.items() if key != hall.channel_id}
        assert counts == {3}
        assert all(c.last_message.seq == 3 for key, c in found.items() if key != hall.channel_id)
        return len([each for each in sent if each.rpc == "ListConversations" and each.service == "messaging"])

    await grow(4)
    person = hall.admin
    if as_guest:
        granted = [key for key in await listed(hall, hall.admin) if key != hall.channel_id]
        person, _ = await hall.guest(hall.channel_id, *granted)
    few = await statements(person, 5)
    if as_guest:
        # Once as if they were a full member, and once as the guest they are.
        assert few == 2
        return
    await grow(195)
    assert (few, await statements(person, 200)) == (1, 1)


async def test_filters_choose_kinds_and_the_archived(hall: Hall) -> None:
    _, bob_id = await hall.newcomer("Bob")
    direct = (await hall.direct(bob_id)).conversation_id
    group = await hall.group_conversation(await hall.group())
    old = await hall.channel()
    await hall.of("ArchiveConversation", old)
    everything = {hall.channel_id, direct, group}
    assert set(await listed(hall, hall.admin)) == everything
    assert set(await listed(hall, hall.admin, archived=True)) == {old}
    for kind, expected in (
        (pb.CONVERSATION_KIND_CHANNEL, {hall.channel_id}),
        (pb.CONVERSATION_KIND_GROUP, {group}),
        (pb.CONVERSATION_KIND_DIRECT, {direct}),
    ):
        assert set(await listed(hall, hall.admin, kind=kind)) == expected
    page = await hall.ask("ListConversations", page_size=1)
    for other in ({"kind": pb.CONVERSATION_KIND_CHANNEL}, {"archived": True}):
        refusal = await refused(hall.ask("ListConversations", page_size=1, page_token=page.next_page_token, **other))
        assert set(refusal.fields) == {"page_token"}


async def test_participants_are_listed_in_pages_by_member_id(hall: Hall) -> None:
    people = {str(uuid.uuid4()): str(uuid.uuid4()) for _ in range(7)}
    for member_id, user_id in people.items():
        hall.rows(
            "INSERT INTO participants (conversation_id, member_id, user_id, workspace_id) VALUES (%s, %s, %s, %s)",
            hall.channel_id,
            member_id,
            user_id,
            hall.workspace_id,
        )
    found: list[pb.Participant] = []
    token = ""
    while True:
        page = await hall.of("ListParticipants", hall.channel_id, page_size=3, page_token=token)
        found += page.participants
        token = page.next_page_token
        if not token:
            break
    everybody = {**people, hall.admin_member_id: hall.admin.user_id}
    assert [each.member_id for each in found] == sorted(everybody)
    assert {each.member_id: each.user_id for each in found} == everybody
    assert all(each.HasField("join_time") for each in found)
    first = await hall.of("ListParticipants", hall.channel_id, page_size=3)
    bob, _ = await hall.newcomer("Bob")
    again = hall.of("ListParticipants", hall.channel_id, by=bob, page_size=3, page_token=first.next_page_token)
    assert set((await refused(again)).fields) == {"page_token"}


async def test_a_channel_without_anybody_in_it_has_an_empty_list(hall: Hall) -> None:
    await hall.of("LeaveConversation", hall.channel_id)
    assert await hall.taking_part(hall.channel_id) == set()


async def together(hall: Hall, *conversation_ids: str, **fields: Any) -> Any:
    """ListCoParticipants, as guest asks."""
    stub = hall.suite.stub(rpc.ConversationServiceStub, certificate="guest")
    fields = {"workspace_id": hall.workspace_id, **fields}
    request = pb.ListCoParticipantsRequest(conversation_ids=conversation_ids, **fields)
    return await stub.ListCoParticipants(request, timeout=10)


async def test_guest_is_told_who_takes_part_in_any_of_some_channels_each_once(hall: Hall) -> None:
    ids = sorted([(await hall.newcomer(name))[1] for name in ("Bob", "Cy", "Dee")])
    one, two, other = [await hall.channel(private=True) for _ in range(3)]
    for channel, member_id in ((one, ids[0]), (one, ids[1]), (two, ids[1]), (other, ids[2])):
        await hall.of("AddParticipant", channel, member_id=member_id)
    both = sorted({hall.admin_member_id, ids[0], ids[1]})

    everybody = await together(hall, one, two, str(uuid.uuid4()))
    assert ([each.member_id for each in everybody.participants], everybody.has_more) == (both, False)
    assert all(each.user_id for each in everybody.participants)
    first = await together(hall, one, two, page_size=2)
    rest = await together(hall, one, two, page_size=2, after_member_id=first.participants[-1].member_id)
    pages = [each.member_id for each in (*first.participants, *rest.participants)]
    assert (pages, first.has_more, rest.has_more) == (both, True, False)
    among = await together(hall, one, two, member_ids=[ids[1], ids[2], str(uuid.uuid4())])
    assert [each.member_id for each in among.participants] == [ids[1]]
    elsewhere = await together(hall, one, workspace_id=str(uuid.uuid4()))
    assert list(elsewhere.participants) == []


@pytest.mark.parametrize("certificate", ["gateway", "identity", "membership", "messaging"])
async def test_nobody_else_is_told_who_takes_part(hall: Hall, certificate: str) -> None:
    stub = hall.suite.stub(rpc.ConversationServiceStub, certificate=certificate)
    request = pb.ListCoParticipantsRequest(workspace_id=hall.workspace_id, conversation_ids=[hall.channel_id])
    assert (await refused(stub.ListCoParticipants(request, timeout=10))).reason == "PEER_NOT_ALLOWED"


async def test_guest_is_told_of_channels_only(hall: Hall) -> None:
    _, bob_id = await hall.newcomer("Bob")
    direct = (await hall.direct(bob_id)).conversation_id
    group = await hall.group_conversation(await hall.group())
    stub = hall.suite.stub(rpc.ConversationServiceStub, certificate="guest")
    request = pb.BatchGetConversationsRequest(
        workspace_id=hall.workspace_id,
        conversation_ids=[hall.channel_id, direct, group],
        member_id=hall.admin_member_id,
    )
    found = (await stub.BatchGetConversations(request, timeout=10)).conversations
    assert [each.conversation_id for each in found] == [hall.channel_id]
