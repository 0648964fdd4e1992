"""`guildhall upload`: a file into a conversation, as a message that holds it."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from guildhall.client import Client, Unavailable
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from deploy.remote import places
from deploy.remote.refusals import NoAnswerError


async def upload(
    client: Client, path: Path, *, workspace: str, conversation: str, text: str, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Uploads the file, or goes on where an earlier try ended, and sends the message. Returns it as the API's JSON.

    Raises `NoAnswerError` where it cannot tell whether the message was stored: doing it again would then send another.
    """
    workspace_id = (await places.find_workspace(client, workspace)).workspace_id
    seen = await places.list_conversations(client, workspace_id)
    conversation_id = places.choose_conversation(seen, conversation).conversation_id
    file = await client.upload(workspace_id, conversation_id, path, reuse=True, progress=progress)
    request = messages.SendMessageRequest(
        workspace_id=workspace_id,
        conversation_id=conversation_id,
        # The same while no message holds the file: of a command that is run again while the message of the one before
        # is on its way, only one of the two is stored. Once one is, the file is its own, and another try makes another.
        client_message_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"guildhall upload {file.file_id}")),
        text=text or path.name,
        file_ids=[file.file_id],
    )
    try:
        sent: Any = await client.call(client.stub(messages_rpc.MessageServiceStub).SendMessage, request)
    except Unavailable as error:
        raise NoAnswerError(
            f"{path.name} is stored, and whether its message was sent is not known ({error.code.name}): see whether "
            "`guildhall tail --last 1` shows it; if not, run the command again, which uploads nothing twice"
        ) from None
    return MessageToDict(sent.message)
