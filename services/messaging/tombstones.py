"""What is taken from a message that is deleted, and from all that hangs on it. What is left of it is its tombstone."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging import files
from services.messaging.changes import Happened, number

# body_mac stays: who sends the message again is still to be told that it is there.
EMPTY = text("""
    UPDATE messages
    SET text = NULL, ciphertext = NULL, scheme = NULL, header = NULL, reply_to_id = NULL, mentioned_member_ids = NULL,
        mentioned_user_group_ids = NULL, mentions_everyone = false, file_count = 0, deleted_at = statement_timestamp()
    WHERE conversation_id = :conversation_id AND id = ANY(CAST(:message_ids AS uuid[])) AND deleted_at IS NULL
""")
HANGING = (
    text("""
        DELETE FROM message_revisions
        WHERE conversation_id = :conversation_id AND message_id = ANY(CAST(:message_ids AS uuid[]))
    """),
    text("""
        DELETE FROM reactions
        WHERE conversation_id = :conversation_id AND message_id = ANY(CAST(:message_ids AS uuid[]))
    """),
    text("""
        UPDATE messages SET reply_to_id = NULL
        WHERE conversation_id = :conversation_id AND reply_to_id = ANY(CAST(:message_ids AS uuid[]))
    """),
)
# The events of its reactions keep their numbers.
FORGET_EMOJI = text("""
    UPDATE conversation_events SET emoji = NULL
    WHERE conversation_id = :conversation_id AND message_id = ANY(CAST(:message_ids AS uuid[])) AND emoji IS NOT NULL
""")


async def bury(
    tx: AsyncConnection, *, workspace_id: str, conversation_id: str, message_ids: Sequence[str]
) -> list[str]:
    """Makes tombstones of messages that are not deleted yet, and numbers that. Returns the files that went with them.

    Under the conversation's lock.
    """
    named = {"conversation_id": conversation_id, "message_ids": list(message_ids)}
    file_ids = await strip(tx, workspace_id=workspace_id, conversation_id=conversation_id, message_ids=message_ids)
    await tx.execute(EMPTY, named)
    await tx.execute(FORGET_EMOJI, named)
    happened = [Happened("message_deleted", message_id=message_id) for message_id in message_ids]
    await number(tx, workspace_id=workspace_id, conversation_id=conversation_id, happened=happened)
    return file_ids


async def strip(
    tx: AsyncConnection, *, workspace_id: str, conversation_id: str, message_ids: Sequence[str]
) -> list[str]:
    """Removes what hangs on messages: revisions, reactions, files, replies' references. Returns the files' ids.

    Under the conversation's lock.
    """
    for statement in HANGING:
        await tx.execute(statement, {"conversation_id": conversation_id, "message_ids": list(message_ids)})
    return await files.delete_of_messages(
        tx, workspace_id=workspace_id, conversation_id=conversation_id, message_ids=message_ids
    )
