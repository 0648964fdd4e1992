"""What is stored, read past the services, and what the API lists of it."""

from collections.abc import Sequence

import psycopg
from guildhall.messaging.v1 import message_service_pb2 as pb
from guildhall.messaging.v1 import message_service_pb2_grpc as rpc

from tests.faults.checker import Stored
from tests.faults.ledger import key_of
from tests.faults.people import Person

_ROWS = """
    SELECT CAST(conversation_id AS text), text, seq, event_seq, CAST(id AS text) FROM messaging.messages
    WHERE conversation_id = ANY(CAST(%s AS uuid[])) ORDER BY conversation_id, seq
"""
_HEADS = """
    SELECT CAST(id AS text), last_event_seq FROM messaging.conversations WHERE id = ANY(CAST(%s AS uuid[]))
"""


async def read_table(admin: psycopg.AsyncConnection, conversation_ids: Sequence[str]) -> dict[str, list[Stored]]:
    """The rows of conversations, by number."""
    found: dict[str, list[Stored]] = {conversation_id: [] for conversation_id in conversation_ids}
    cursor = await admin.execute(_ROWS, [list(conversation_ids)])
    async for conversation_id, text, seq, event_seq, message_id in cursor:
        found[conversation_id].append(Stored(key_of(text), seq, event_seq, message_id))
    return found


async def read_heads(admin: psycopg.AsyncConnection, conversation_ids: Sequence[str]) -> dict[str, int]:
    """The number of each conversation's latest event."""
    cursor = await admin.execute(_HEADS, [list(conversation_ids)])
    return {conversation_id: head async for conversation_id, head in cursor}


async def read_pages(reader: Person, workspace_id: str, conversation_ids: Sequence[str]) -> dict[str, list[Stored]]:
    """All that ListMessages gives, oldest first."""
    found = {}
    for conversation_id in conversation_ids:
        newest_first: list[Stored] = []
        request = pb.ListMessagesRequest(workspace_id=workspace_id, conversation_id=conversation_id, page_size=200)
        while True:
            page = await reader.call(rpc.MessageServiceStub, "ListMessages", request)
            newest_first += [Stored(key_of(m.text), m.seq, m.event_seq, m.message_id) for m in page.messages]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        found[conversation_id] = newest_first[::-1]
    return found
