"""`guildhall upload`: a file into a conversation, as a message that holds it."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from guildhall.client import Client
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from deploy.remote import places


async def upload(
    client: Client, path: Path, *, workspace: str, conversation: str, text: str, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Uploads the file, or goes on where an earlier try ended, and sends the message. Returns it as the API's JSON."""
    workspace_id = (await places.find_workspace(client, workspace)).workspace_id
    seen = await places.list_conversations(client, workspace_id)
    conversation_id = places.choose_conversation(seen, conversation).conversation_id
    file = await client.upload(workspace_id, conversation_id, path, reuse=True, progress=progress)
    request = messages.SendMessageRequest(
        workspace_id=workspace_id,
        conversation_id=conversation_id,
        # The same for the same file, so that a command which is run again sends no second message.
        client_message_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"guildhall upload {file.file_id}")),
        text=text or path.name,
        file_ids=[file.file_id],
    )
    sent: Any = await client.call(client.stub(messages_rpc.MessageServiceStub).SendMessage, request)
    return MessageToDict(sent.message)
