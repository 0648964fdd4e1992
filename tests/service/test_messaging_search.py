"""Searching messages: what is found, by whom, in which order, and what is never found."""

import asyncio
import time
import uuid
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.messaging.v1 import message_service_pb2 as pb
from guildhall.messaging.v1 import message_service_pb2_grpc as rpc
from guildhall.messaging.v1 import reaction_service_pb2 as reactions
from guildhall.messaging.v1 import reaction_service_pb2_grpc as reactions_rpc

from tests.service.test_messaging_conversations import Room
from tests.support.suite import Person, Suite, refused


class Library(Room):
    """A workspace in which people search."""

    def search(self, person: Person, query: str = "", **asked: Any) -> Any:
        """SearchMessages; await it for the response."""
        request = pb.SearchMessagesRequest(workspace_id=self.workspace_id, query=query, **asked)
        return person.call(self.suite.stub(rpc.MessageServiceStub).SearchMessages, request)

    async def found(self, person: Person, query: str = "", **asked: Any) -> list[str]:
        """The texts of all pages, once everything that was written so far can be found."""
        await self.settled()
        texts: list[str] = []
        token = ""
        while True:
            page = await self.search(person, query, page_token=token, **asked)
            texts += [message.text for message in page.messages]
            if not (token := page.next_page_token):
                return texts

    async def settled(self) -> None:
        """Returns when the entries have followed all conversations of the workspace."""
        deadline = time.monotonic() + 20
        while self.rows(
            "SELECT FROM conversations c LEFT JOIN search_positions p ON p.conversation_id = c.id "
            "WHERE c.workspace_id = %(workspace_id)s AND c.last_event_seq > coalesce(p.event_seq, 0)",
            workspace_id=self.workspace_id,
        ):
            assert time.monotonic() < deadline, "the entries never followed"
            await asyncio.sleep(0.02)

    def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Rows, by messaging's own role; none for a statement without any."""
        return self.suite.rows("messaging", statement, values)

    async def send_more(self, person: Person, text: str = "", *, to: str = "", **fields: Any) -> pb.Message:
        """Sends a message with more than text."""
        request = self.send_request(text, to=to)
        request.MergeFrom(pb.SendMessageRequest(**fields))
        answer = await person.call(self.suite.stub(rpc.MessageServiceStub).SendMessage, request)
        assert isinstance(answer.message, pb.Message)
        return answer.message

    async def change(self, person: Person, rpc_name: str, message: pb.Message, **fields: Any) -> None:
        """EditMessage or DeleteMessage."""
        place = {"conversation_id": message.conversation_id, "message_id": message.message_id}
        request = getattr(pb, f"{rpc_name}Request")(workspace_id=self.workspace_id, **place, **fields)
        await person.call(getattr(self.suite.stub(rpc.MessageServiceStub), rpc_name), request)

    async def react(self, person: Person, rpc_name: str, message: pb.Message, emoji: str) -> None:
        """AddReaction or RemoveReaction."""
        place = {"conversation_id": message.conversation_id, "message_id": message.message_id}
        request = getattr(reactions, f"{rpc_name}Request")(workspace_id=self.workspace_id, emoji=emoji, **place)
        await person.call(getattr(self.suite.stub(reactions_rpc.ReactionServiceStub), rpc_name), request)

    def touch(self, message: pb.Message, kind: str, statement: str, **values: Any) -> None:
        """Changes a message, and numbers that as an event, as the RPCs do in one transaction."""
        place = {"conversation_id": message.conversation_id, "message_id": message.message_id}
        with self.suite.database("messaging") as database, database.transaction():
            database.execute(
                "UPDATE conversations SET last_event_seq = last_event_seq + 1 WHERE id = %(conversation_id)s", place
            )
            database.execute(
                "INSERT INTO conversation_events (conversation_id, event_seq, kind, message_id) "
                "SELECT id, last_event_seq, %(kind)s, %(message_id)s FROM conversations WHERE id = %(conversation_id)s",
                {**place, "kind": kind},
            )
            database.execute(statement, {**place, **values})
        self.suite.frames["messaging"].wakes.publish("messaging.conversations", message.conversation_id)


OF_MESSAGE = "WHERE conversation_id = %(conversation_id)s AND id = %(message_id)s"


@pytest.fixture
async def library(suite: Suite) -> Library:
    """A workspace of this test's own."""
    made = await Library.make(suite)
    assert isinstance(made, Library)
    return made


async def test_words_are_found_newest_first_across_conversations(library: Library) -> None:
    other = await library.channel()
    await library.sent(library.admin, "the first apple")
    await library.sent(library.admin, "an APPLE elsewhere", to=other)
    await library.sent(library.admin, "pears")
    await library.sent(library.admin, "apples are another word, but this apple is one")
    assert await library.found(library.admin, "Apple") == [
        "apples are another word, but this apple is one",
        "an APPLE elsewhere",
        "the first apple",
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("night train", {"the night train", "a train by night"}),
        ('"night train"', {"the night train"}),
        ("night -by", {"the night train"}),
        ("-train", {"nothing of it"}),
        ("-train or night", {"the night train", "a train by night", "nothing of it"}),
        ("night or nothing", {"the night train", "a train by night", "nothing of it"}),
        ("NIGHT   Train", {"the night train", "a train by night"}),
        ("night day", set()),
    ],
)
async def test_the_box_for_words_knows_quotes_or_and_minus(library: Library, query: str, expected: set[str]) -> None:
    for text in ("the night train", "a train by night", "nothing of it"):
        await library.sent(library.admin, text)
    assert set(await library.found(library.admin, query)) == expected


async def test_letters_that_only_look_different_are_the_same(library: Library) -> None:
    await library.sent(library.admin, "ｆｕｌｌ width ﬁne CAFE\u0301")
    for query in ("full", "fine", "caf\u00e9", "ﬁｎｅ"):
        assert len(await library.found(library.admin, query)) == 1, query
    assert await library.found(library.admin, "cafe") == []


@pytest.mark.parametrize(
    "query",
    [
        "'",
        '"',
        "\\",
        "'; DROP TABLE messages; --",
        ":*",
        "a:*",
        "!!",
        "a & & b",
        "((",
        "<->",
        "a <-> <2> b",
        '"a "b" c',
        "% _ %",
        "or",
        "or or",
        "- -",
        "x" * 500,
        "\U00010400" * 500,
        "\ufdfa" * 500,
        "\u3300" * 500,
        '"' * 500,
        "a or " * 100,
        "-a " * 166,
        "\x01\x7f\u2028\u202e",
        "http://example.com/a?b=c user@example.com 1.5e-3",
    ],
)
async def test_whatever_is_written_into_the_box_is_answered(library: Library, query: str) -> None:
    await library.sent(library.admin, f"before {query} after")
    await library.sent(library.admin, "unharmed")
    await library.settled()
    await library.search(library.admin, query)
    assert await library.found(library.admin, "unharmed") == ["unharmed"]


async def test_what_the_box_cannot_take_is_refused(library: Library) -> None:
    refusal = await refused(library.search(library.admin, "- " * 250))
    assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["query"])
    await library.search(library.admin, "- " * 25)


@pytest.mark.parametrize("query", ["!?", "...", "   ", "<->", '""'])
async def test_what_has_no_word_in_it_is_found_nowhere(library: Library, query: str) -> None:
    await library.sent(library.admin, f"a {query} b")
    assert await library.found(library.admin, query) == []
    assert await library.found(library.admin, query, sender_user_id=library.admin.user_id) == []
    assert len(await library.found(library.admin, "", sender_user_id=library.admin.user_id)) == 1


async def test_a_nul_is_refused_at_the_border(library: Library) -> None:
    refusal = await refused(library.search(library.admin, "a\0b"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_nothing_to_look_for_is_refused(library: Library) -> None:
    await library.sent(library.admin, "hello")
    for asked in ({}, {"conversation_ids": [library.channel_id]}):
        refusal = await refused(library.search(library.admin, **asked))
        assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["query"])
    assert await library.found(library.admin, "hello", conversation_ids=[library.channel_id]) == ["hello"]


async def test_a_reaction_without_an_emoji_is_refused(library: Library) -> None:
    refusal = await refused(library.search(library.admin, "word", reaction="\ufe0f"))
    assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["reaction"])


async def test_a_time_that_no_calendar_has_is_refused(library: Library) -> None:
    for field in ("sent_after", "sent_before"):
        refusal = await refused(library.search(library.admin, **{field: Timestamp(seconds=1 << 60)}))
        assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_messages_are_found_by_their_sender(library: Library) -> None:
    member, _ = await library.member()
    await library.sent(library.admin, "a report")
    await library.sent(member, "another report")
    assert await library.found(library.admin, sender_user_id=member.user_id.upper()) == ["another report"]
    assert await library.found(library.admin, "report", sender_user_id=library.admin.user_id) == ["a report"]
    assert await library.found(library.admin, "report", sender_user_id=str(uuid.uuid4())) == []


async def test_messages_are_found_by_the_time_they_were_sent(library: Library) -> None:
    messages = [await library.sent(library.admin, f"note {number}") for number in range(4)]
    times = [message.create_time for message in messages]
    assert await library.found(library.admin, sent_after=times[2]) == ["note 3", "note 2"]
    assert await library.found(library.admin, "note", sent_before=times[2]) == ["note 1", "note 0"]
    assert await library.found(library.admin, sent_after=times[1], sent_before=times[3]) == ["note 2", "note 1"]
    long_ago, soon = Timestamp(seconds=0), Timestamp(seconds=times[0].seconds + 86_400)
    assert len(await library.found(library.admin, sent_after=long_ago, sent_before=soon)) == 4
    assert await library.found(library.admin, sent_after=soon) == []
    assert await library.found(library.admin, sent_before=Timestamp(seconds=-5_000_000_000)) == []


async def test_messages_are_found_by_whom_they_mention(library: Library) -> None:
    _, member_id = await library.member()
    await library.send_more(library.admin, "for Mel", mentions=pb.Mentions(member_ids=[member_id]))
    await library.send_more(library.admin, "for all", mentions=pb.Mentions(everyone=True))
    await library.sent(library.admin, "for nobody")
    assert await library.found(library.admin, mentioned_member_id=member_id) == ["for Mel"]
    assert await library.found(library.admin, mentioned_member_id=library.admin_member_id) == []


async def test_messages_are_found_by_their_files(library: Library) -> None:
    with_file = await library.sent(library.admin, "with a file")
    await library.sent(library.admin, "without a file")
    library.touch(with_file, "message_edited", f"UPDATE messages SET file_count = 1 {OF_MESSAGE}")
    assert await library.found(library.admin, "file", has_file=True) == ["with a file"]
    library.touch(with_file, "file_deleted", f"UPDATE messages SET file_count = 0 {OF_MESSAGE}")
    assert await library.found(library.admin, "file", has_file=True) == []


async def test_messages_are_found_by_a_reaction_however_it_is_spelt(library: Library) -> None:
    loved = await library.sent(library.admin, "loved")
    await library.sent(library.admin, "not loved")
    await library.react(library.admin, "AddReaction", loved, "❤\ufe0f")
    for spelling in ("❤", "❤\ufe0f", "❤\ufe0e"):
        assert await library.found(library.admin, reaction=spelling) == ["loved"]
    assert await library.found(library.admin, reaction="👍") == []
    (message,) = (await library.search(library.admin, "loved", reaction="❤")).messages
    assert [(reaction.emoji, reaction.count) for reaction in message.reactions] == [("❤\ufe0f", 1)]
    await library.react(library.admin, "RemoveReaction", loved, "❤")
    assert await library.found(library.admin, reaction="❤") == []


async def test_what_is_encrypted_is_found_by_its_metadata_only(library: Library) -> None:
    secret = pb.EncryptedPayload(ciphertext=b"opaque words", scheme="opaque")
    sent = await library.send_more(library.admin, encrypted=secret)
    await library.sent(library.admin, "opaque words")
    assert await library.found(library.admin, "opaque") == ["opaque words"]
    await library.settled()
    page = await library.search(library.admin, sender_user_id=library.admin.user_id)
    assert [message.encrypted.ciphertext for message in page.messages] == [b"", b"opaque words"]
    assert page.messages[1].message_id == sent.message_id


async def test_an_edited_message_is_found_by_what_it_says_now(library: Library) -> None:
    message = await library.sent(library.admin, "old words")
    assert await library.found(library.admin, "old") == ["old words"]
    await library.change(library.admin, "EditMessage", message, text="new words")
    # What it said before is not even found while the entry still has it.
    assert list((await library.search(library.admin, "old")).messages) == []
    assert await library.found(library.admin, "new") == ["new words"]
    assert await library.found(library.admin, "old") == []


async def test_a_deleted_message_is_never_found_and_its_words_are_gone(library: Library) -> None:
    message = await library.sent(library.admin, "regrettable words")
    assert await library.found(library.admin, "regrettable") == ["regrettable words"]
    await library.change(library.admin, "DeleteMessage", message)
    for asked in ({"query": "regrettable"}, {"sender_user_id": library.admin.user_id}):
        assert list((await library.search(library.admin, **asked)).messages) == []
    await library.settled()
    entry = "SELECT FROM search_entries WHERE conversation_id = %(c)s AND message_id = %(m)s"
    assert library.rows(entry, c=message.conversation_id, m=message.message_id) == []


async def test_what_retention_hides_is_not_found(library: Library) -> None:
    old = await library.sent(library.admin, "an old word")
    await library.sent(library.admin, "a young word")
    assert len(await library.found(library.admin, "word")) == 2
    library.rows("UPDATE conversations SET retention_seconds = 3600 WHERE id = %(id)s", id=library.channel_id)
    library.rows(
        "UPDATE messages SET created_at = created_at - interval '2 hours' WHERE conversation_id = %(c)s AND id = %(m)s",
        c=library.channel_id,
        m=old.message_id,
    )
    assert await library.found(library.admin, "word") == ["a young word"]
