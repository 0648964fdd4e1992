"""Files that no message holds: what one member may take up with them, and how others get the room back."""

import uuid

import grpc
import pytest
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc
from sqlalchemy import Engine, event

from services.messaging import file_sweeps, files
from services.messaging.settings import GIB, MessagingSettings
from tests.support.deliveries import deliver, until
from tests.support.files import FileRoom
from tests.support.statements import rows_looked_at
from tests.support.suite import Person, Suite, refused


@pytest.fixture
async def room(suite: Suite) -> FileRoom:
    """A workspace of this test's own."""
    made = await FileRoom.make(suite)
    assert isinstance(made, FileRoom)
    return made


async def test_a_member_takes_up_only_a_part_of_the_storage_before_a_message_holds_it(room: FileRoom) -> None:
    member, _ = await room.member()
    made = [await room.created(member, size_bytes=GIB) for _ in range(5)]
    refusal = await refused(room.create(member, size_bytes=1))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
    assert refusal.metadata == {"limit": "unattached_bytes", "most": str(5 * GIB)}
    assert (room.rows(), room.stored_bytes()) == (5, 5 * GIB)
    # Everybody else's room is as it was, and what was given up is there again.
    assert await room.created(room.admin, size_bytes=GIB)
    await room.delete(member, made[0])
    assert await room.created(member, size_bytes=GIB)


async def test_a_guest_takes_up_less(room: FileRoom) -> None:
    guest, _ = await room.guest()
    await room.created(guest, size_bytes=GIB)
    refusal = await refused(room.create(guest, size_bytes=1))
    assert refusal.metadata == {"limit": "unattached_bytes", "most": str(GIB)}
    assert room.stored_bytes() == GIB


async def test_what_a_message_holds_is_not_counted(room: FileRoom) -> None:
    try:
        await room.restarted(unattached_bytes_per_member=10)
        first = await room.uploaded(room.admin)
        assert (await refused(room.create(room.admin))).metadata["limit"] == "unattached_bytes"
        room.attach(first, (await room.sent(room.admin)).message_id)
        assert await room.uploaded(room.admin)
    finally:
        await room.restarted()


def test_the_part_follows_the_storage_and_has_room_for_one_file() -> None:
    def most(storage: int, largest: int) -> tuple[int, int]:
        settings = MessagingSettings.model_construct(
            storage_bytes_per_workspace=storage, most_file_bytes=largest, unattached_bytes_per_member=None
        )
        return settings.unattached_bytes(is_guest=False), settings.unattached_bytes(is_guest=True)

    assert most(1000, 10) == (50, 10)
    assert most(2000, 10) == (100, 20)
    assert most(1000, 200) == (200, 200)


async def test_what_a_removed_member_announced_is_room_for_others_again(room: FileRoom) -> None:
    member, member_id = await room.member()
    held = await room.attached(member)
    for _ in range(3):
        await room.created(member, size_bytes=GIB)
    await room.created(room.admin, size_bytes=1)
    await tell_removed(room, member, member_id)
    await until(lambda: (room.rows(), room.stored_bytes()) == (2, 8))
    assert held in await room.ids(room.admin)


async def test_what_was_still_being_announced_is_released_a_minute_later(room: FileRoom) -> None:
    member, member_id = await room.member()
    await room.created(member)
    await tell_removed(room, member, member_id)
    await until(lambda: room.rows() == 0)
    later = "kind = %(kind)s AND subject_id = %(id)s AND due_at > statement_timestamp() + interval '30 seconds'"
    asked = {"kind": files.RELEASE, "id": member_id}
    assert len(room.storage_sql(f"SELECT 1 FROM outbox WHERE {later}", **asked)) == 1
    # By a call that was let in before they were removed.
    late = await room.created(room.admin)
    room.storage_sql("UPDATE files SET uploader_member_id = %(id)s WHERE id = %(file)s", id=member_id, file=late)
    room.storage_sql(f"UPDATE outbox SET due_at = statement_timestamp() WHERE {later}", **asked)
    await until(lambda: (room.rows(), room.stored_bytes()) == (0, 0))


async def test_what_a_member_announced_is_found_among_the_files_of_many_workspaces(room: FileRoom) -> None:
    member, member_id = await room.member()
    await room.created(member)
    with room.suite.database("messaging_owner") as database:
        database.execute(
            "INSERT INTO files (id, workspace_id, conversation_id, uploader_member_id, uploader_user_id, name,"
            " mime_type, size_bytes, sha256) SELECT gen_random_uuid(), gen_random_uuid(), %s, gen_random_uuid(),"
            " gen_random_uuid(), 'f', 'text/plain', 1, sha256('f') FROM generate_series(1, 3000)",
            (room.channel_id,),
        )
        database.execute("ANALYZE files")
        parameters = {"member_id": member_id, "most": file_sweeps.BATCH}
        release = files.DELETE_UNATTACHED_OF_MEMBER
        looked_at = await rows_looked_at(room.suite.frames["messaging"].database, release, parameters, table="files")
        database.execute("DELETE FROM files WHERE conversation_id = %s", (room.channel_id,))
    assert 1 <= looked_at <= 5


async def tell_removed(room: FileRoom, member: Person, member_id: str) -> None:
    """membership tells that a member was removed."""
    removed = events.MemberRemoved(workspace_id=room.workspace_id, member_id=member_id, user_id=member.user_id)
    await deliver(room.suite, events.Event(member_removed=removed), source="membership", to="messaging")


async def test_the_release_goes_on_over_batches(room: FileRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_sweeps, "BATCH", 2)
    for _ in range(5):
        await room.created(room.admin)
    release = file_sweeps.releaser(room.suite.frames["messaging"].database)
    await release(room.admin_member_id, "")
    assert (room.rows(), room.stored_bytes()) == (0, 0)


async def test_a_moderator_finds_and_deletes_what_others_take_up(room: FileRoom) -> None:
    member, _ = await room.member()
    other, _ = await room.member()
    announced, finished, held = (
        await room.created(member, size_bytes=GIB),
        await room.uploaded(member),
        await room.attached(member),
    )
    own = await room.created(other)
    assert await room.ids(room.admin, unattached=True) == [own, finished, announced]
    assert await room.ids(member, unattached=True) == [finished, announced]
    assert await room.ids(other, unattached=True) == [own]
    # The ordinary list is as it was: what somebody has not sent is not on it for others.
    assert await room.ids(room.admin) == [held]
    assert (await refused(room.delete(other, announced))).reason == "NOT_FOUND"
    assert (await refused(room.get(room.admin, announced))).reason == "NOT_FOUND"
    await room.delete(room.admin, announced)
    assert await room.ids(room.admin, unattached=True) == [own, finished]
    assert room.stored_bytes() == 21


async def test_a_moderator_deletes_nothing_where_they_see_nothing(room: FileRoom) -> None:
    member, _ = await room.member()
    private = await room.channel(member, private=True)
    hidden = await room.created(member, to=private)
    assert (await refused(room.delete(room.admin, hidden))).reason == "NOT_FOUND"
    assert (await refused(room.listed(room.admin, private, unattached=True))).reason == "NOT_FOUND"


async def test_a_guest_and_a_former_moderator_see_their_own_alone(room: FileRoom) -> None:
    moderator, member_id = await room.member(members.ROLE_ADMIN)
    guest, _ = await room.guest()
    others, guests = await room.created(room.admin), await room.created(guest)
    assert await room.ids(moderator, unattached=True) == [guests, others]
    assert await room.ids(guest, unattached=True) == [guests]
    stub = room.suite.stub(members_rpc.MemberServiceStub)
    lowered = members.UpdateMemberRoleRequest(
        workspace_id=room.workspace_id, member_id=member_id, role=members.ROLE_MEMBER
    )
    await room.admin.call(stub.UpdateMemberRole, lowered)
    assert await room.ids(moderator, unattached=True) == []


async def test_who_was_lowered_while_it_was_read_is_shown_nothing_of_others(room: FileRoom) -> None:
    moderator, member_id = await room.member(members.ROLE_ADMIN)
    await room.created(room.admin)
    own = await room.created(moderator)
    lowered: list[str] = []

    def lower(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if not lowered and "f.message_id IS NULL AND (" in statement and "LIMIT" in statement:
            lowered.append(statement)
            room.suite.rows("membership", "UPDATE members SET role = 'member' WHERE id = %(id)s", {"id": member_id})

    event.listen(Engine, "after_cursor_execute", lower)
    try:
        assert await room.ids(moderator, unattached=True) == [own]
    finally:
        event.remove(Engine, "after_cursor_execute", lower)
    assert lowered


async def test_unattached_and_a_message_exclude_each_other(room: FileRoom) -> None:
    refusal = await refused(room.listed(room.admin, unattached=True, message_id=str(uuid.uuid4())))
    assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"unattached"})
