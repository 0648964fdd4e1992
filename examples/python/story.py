"""A workspace, a channel, a message, and the live events that tell of it, with guildhall.client."""

import asyncio
import os
import subprocess
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.client import Client, NotFound
from guildhall.membership.v1.workspace_service_pb2 import CreateWorkspaceRequest, GetWorkspaceRequest
from guildhall.membership.v1.workspace_service_pb2_grpc import WorkspaceServiceStub
from guildhall.messaging.v1.conversation_service_pb2 import VISIBILITY_PUBLIC, CreateChannelRequest
from guildhall.messaging.v1.conversation_service_pb2_grpc import ConversationServiceStub
from guildhall.messaging.v1.message_service_pb2 import ListMessagesRequest, SendMessageRequest
from guildhall.messaging.v1.message_service_pb2_grpc import MessageServiceStub

GATEWAY = os.environ.get("GUILDHALL_GATEWAY", "127.0.0.1:8080")
TOKEN = subprocess.check_output(["guildhall", "token", "you@example.com"], text=True).strip()


async def development_token() -> tuple[str, Timestamp]:
    """A product would say `await client.sign_in(email, password)`, or `client.use_service_key(key)`, instead."""
    ends = Timestamp()
    ends.FromDatetime(datetime.now(UTC) + timedelta(minutes=4))
    return TOKEN, ends


async def main() -> None:
    async with Client(GATEWAY) as client:
        client.use_tokens(development_token)

        workspaces = client.stub(WorkspaceServiceStub)
        made = await client.call(workspaces.CreateWorkspace, CreateWorkspaceRequest(name="Analytical Engines"))
        workspace = made.workspace
        print("workspace", workspace.workspace_id, workspace.name)

        general = CreateChannelRequest(
            workspace_id=workspace.workspace_id, name="general", visibility=VISIBILITY_PUBLIC
        )
        channel = (await client.call(client.stub(ConversationServiceStub).CreateChannel, general)).conversation
        print("channel", channel.conversation_id, channel.name)

        # An empty client_message_id is filled in: when the call is repeated, no second message is stored.
        place = {"workspace_id": workspace.workspace_id, "conversation_id": channel.conversation_id}
        messages = client.stub(MessageServiceStub)
        sent = await client.call(messages.SendMessage, SendMessageRequest(**place, text="Note G is done."))
        print("sent", sent.message.seq, sent.message.text)

        async for message in client.pages(
            messages.ListMessages, ListMessagesRequest(**place), lambda page: page.messages
        ):
            print("listed", message.seq, message.text)

        # From before the first event on. The stream goes on for ever, over broken connections.
        async for event in client.events(workspace.workspace_id, positions={channel.conversation_id: 0}):
            if event.WhichOneof("payload") == "message_created":
                print("heard", event.event_seq, event.message_created.text)
                break

        try:
            unknown = GetWorkspaceRequest(workspace_id=channel.conversation_id)
            await client.call(workspaces.GetWorkspace, unknown)
        except NotFound as refused:
            print("refused", refused.reason)


asyncio.run(main())
