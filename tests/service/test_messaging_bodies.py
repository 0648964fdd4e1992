"""What a message holds besides plain text: ciphertext, a reply, mentions and files; and how it is known again."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from guildhall.messaging.v1 import message_service_pb2 as pb
from guildhall.messaging.v1 import message_service_pb2_grpc as rpc

from services.messaging import files
from tests.support.files import FileRoom
from tests.support.suite import Person, Suite, refused

ENCRYPTED = pb.EncryptedPayload(ciphertext=b"\x00\xff unreadable", scheme="product/1", header=b"nonce")


@pytest.fixture
async def room(suite: Suite) -> FileRoom:
    """A workspace of this test's own."""
    made = await FileRoom.make(suite)
    assert isinstance(made, FileRoom)
    return made


def stub(room: FileRoom) -> Any:
    """The stub of MessageService."""
    return room.suite.stub(rpc.MessageServiceStub)


def request(room: FileRoom, **values: Any) -> pb.SendMessageRequest:
    """A message to the channel; some text if nothing else is said."""
    values = {"text": "" if "encrypted" in values else "some text", "client_message_id": str(uuid.uuid4())} | values
    return pb.SendMessageRequest(workspace_id=room.workspace_id, conversation_id=room.channel_id, **values)


async def send(room: FileRoom, person: Person, sending: pb.SendMessageRequest) -> pb.Message:
    """What is stored."""
    message = (await person.call(stub(room).SendMessage, sending)).message
    assert isinstance(message, pb.Message)
    return message


async def listed(room: FileRoom, person: Person) -> list[pb.Message]:
    """The channel's messages, oldest first."""
    asked = pb.ListMessagesRequest(workspace_id=room.workspace_id, conversation_id=room.channel_id)
    return list(reversed((await person.call(stub(room).ListMessages, asked)).messages))


async def test_an_encrypted_message_comes_back_byte_for_byte(room: FileRoom) -> None:
    member, _ = await room.member()
    sent = await send(room, room.admin, request(room, encrypted=ENCRYPTED))
    (message,) = await listed(room, member)
    assert (message.encrypted, message.text) == (ENCRYPTED, "")
    assert message == sent


@pytest.mark.parametrize(
    "values",
    [
        {"text": "", "client_message_id": str(uuid.uuid4())},
        {"text": "both", "encrypted": ENCRYPTED},
        {"encrypted": pb.EncryptedPayload(ciphertext=b"x" * 160_001, scheme="s")},
        {"encrypted": pb.EncryptedPayload(ciphertext=b"", scheme="s")},
        {"encrypted": pb.EncryptedPayload(ciphertext=b"x", scheme="")},
        {"file_ids": [str(uuid.uuid4()) for _ in range(11)]},
    ],
)
async def test_a_body_that_breaks_a_rule_is_refused(room: FileRoom, values: dict[str, Any]) -> None:
    refusal = await refused(room.admin.call(stub(room).SendMessage, request(room, **values)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert await listed(room, room.admin) == []


async def test_a_reply_names_a_message_of_the_same_conversation(room: FileRoom) -> None:
    question = await send(room, room.admin, request(room, text="who?"))
    answer = await send(room, room.admin, request(room, text="me", reply_to_message_id=question.message_id))
    assert answer.reply_to_message_id == question.message_id
    assert [message.reply_to_message_id for message in await listed(room, room.admin)] == ["", question.message_id]


async def test_a_reply_to_what_is_not_in_the_conversation_stores_nothing(room: FileRoom) -> None:
    elsewhere = await room.sent(room.admin, to=await room.channel())
    for message_id in (elsewhere.message_id, str(uuid.uuid4())):
        sending = request(room, reply_to_message_id=message_id)
        refusal = await refused(room.admin.call(stub(room).SendMessage, sending))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REFERENCE_GONE")
        assert set(refusal.fields) == {"reply_to_message_id"}
    assert (await send(room, room.admin, request(room))).seq == 1


async def test_mentions_are_kept_as_ids(room: FileRoom) -> None:
    _, member_id = await room.member()
    mentions = pb.Mentions(member_ids=[member_id], user_group_ids=[str(uuid.uuid4())], everyone=True)
    sent = await send(room, room.admin, request(room, mentions=mentions))
    assert sent.mentions == mentions
    assert [message.mentions for message in await listed(room, room.admin)] == [mentions]


async def test_files_come_with_the_message_that_holds_them(room: FileRoom) -> None:
    member, _ = await room.member()
    file_ids = [await room.uploaded(room.admin, name=f"{n}.pdf") for n in range(2)]
    sent = await send(room, room.admin, request(room, file_ids=file_ids))
    (message,) = await listed(room, member)
    assert [file.name for file in message.files] == ["0.pdf", "1.pdf"]
    assert {file.message_id for file in message.files} == {sent.message_id}
    assert await room.download(member, file_ids[0]) == b"content"


async def test_a_file_that_is_not_ones_own_ready_and_free_stores_nothing(room: FileRoom) -> None:
    member, _ = await room.member()
    held = await room.uploaded(room.admin)
    await send(room, room.admin, request(room, file_ids=[held]))
    cases = {
        "another's": await room.uploaded(member),
        "unfinished": await room.created(room.admin),
        "held already": held,
        "for another conversation": await room.uploaded(room.admin, to=await room.channel()),
        "never announced": str(uuid.uuid4()),
    }
    good = await room.uploaded(room.admin)
    for file_id in cases.values():
        sending = request(room, file_ids=[good, file_id])
        refusal = await refused(room.admin.call(stub(room).SendMessage, sending))
        assert (refusal.reason, set(refusal.fields)) == ("REFERENCE_GONE", {"file_ids"})
    assert (await send(room, room.admin, request(room, file_ids=[good]))).seq == 2


async def test_of_many_messages_at_once_one_has_the_file(room: FileRoom) -> None:
    file_id = await room.uploaded(room.admin)
    calls = [room.admin.call(stub(room).SendMessage, request(room, file_ids=[file_id])) for _ in range(16)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, pb.SendMessageResponse) for outcome in outcomes) == 1
    (message,) = await listed(room, room.admin)
    assert [file.file_id for file in message.files] == [file_id]


async def test_a_file_given_up_while_it_is_sent_is_never_half_there(room: FileRoom) -> None:
    database = room.suite.frames["messaging"].database
    for _ in range(10):
        file_id = await room.uploaded(room.admin)
        room.storage_sql("UPDATE files SET created_at = created_at - interval '25 hours' WHERE id = %(f)s", f=file_id)
        sweep = database.transaction(lambda tx: files.delete_expired(tx, most=10))
        call = room.admin.call(stub(room).SendMessage, request(room, file_ids=[file_id]))
        _, outcome = await asyncio.gather(sweep, call, return_exceptions=True)
        if isinstance(outcome, pb.SendMessageResponse):
            assert [file.file_id for file in outcome.message.files] == [file_id]
        else:
            assert isinstance(outcome, grpc.aio.AioRpcError)
            assert outcome.code() == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    "other",
    [
        {"text": "another text"},
        {"encrypted": ENCRYPTED},
        {"mentions": pb.Mentions(everyone=True)},
        {"reply_to_message_id": "REPLY"},
    ],
)
async def test_the_same_id_with_another_body_is_refused_and_with_the_same_one_repeated(
    room: FileRoom, other: dict[str, Any]
) -> None:
    first = await send(room, room.admin, request(room))
    values = {name: first.message_id if value == "REPLY" else value for name, value in other.items()}
    for one, another in (({}, values), (values, {})):
        key = str(uuid.uuid4())
        sent = await send(room, room.admin, request(room, client_message_id=key, **one))
        again = await send(room, room.admin, request(room, client_message_id=key, **one))
        assert again == sent
        sending = request(room, client_message_id=key, **another)
        refusal = await refused(room.admin.call(stub(room).SendMessage, sending))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH")
