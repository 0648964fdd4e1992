"""Two replicas of every service: whoever listens or sends at which of them, all see one sequence."""

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from guildhall.messaging.v1 import event_service_pb2 as events
from guildhall.messaging.v1 import event_service_pb2_grpc as events_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from deploy.stack import certificates
from tests.suite.conftest import Running, booted, new_folder

MESSAGES = 400


@pytest.fixture(scope="module")
def two_replicas() -> Iterator[Running]:
    with new_folder("two") as folder, booted(folder, replicas=2, GUILDHALL_LOG_LEVEL="warning") as suite:
        yield suite


def replica(suite: Running, number: int) -> grpc.aio.Channel:
    """A channel to one replica of messaging, with the gateway's certificate."""
    files = certificates.files(suite.settings.layout.certificates, "gateway")
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    options = [("grpc.ssl_target_name_override", "messaging"), ("grpc.enable_http_proxy", 0)]
    address = f"127.0.0.1:{suite.settings.ports.service('messaging', number)}"
    return grpc.aio.secure_channel(address, credentials, options=options)


async def hear(channel: grpc.aio.Channel, workspace_id: str, metadata: Any, opened: asyncio.Event) -> list[Any]:
    """The first MESSAGES messages of a stream."""
    heard: list[Any] = []
    stub = events_rpc.EventServiceStub(channel)
    stream = stub.Subscribe(events.SubscribeRequest(workspace_id=workspace_id), timeout=60, metadata=metadata)
    async for frame in stream:
        opened.set()
        heard += [event.message_created for event in frame.events.events]
        if len(heard) >= MESSAGES:
            break
    stream.cancel()
    return heard


async def test_every_subscriber_of_either_replica_gets_the_conversations_sequence(two_replicas: Running) -> None:
    metadata = (("authorization", f"Bearer {two_replicas.token('ada@example.com')}"),)
    options = [("grpc.enable_http_proxy", 0)]
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(grpc.aio.insecure_channel(two_replicas.gateway, options=options))
        replicas = [await stack.enter_async_context(replica(two_replicas, number)) for number in (0, 1)]
        made = await workspaces_rpc.WorkspaceServiceStub(gateway).CreateWorkspace(
            workspaces.CreateWorkspaceRequest(name="two"), timeout=10, metadata=metadata
        )
        channel = await conversations_rpc.ConversationServiceStub(gateway).CreateChannel(
            conversations.CreateChannelRequest(
                workspace_id=made.workspace.workspace_id, name="both", visibility=conversations.VISIBILITY_PUBLIC
            ),
            timeout=10,
            metadata=metadata,
        )
        place = channel.conversation
        opened = [asyncio.Event() for _ in range(4)]
        listening = [
            asyncio.ensure_future(hear(replicas[number % 2], place.workspace_id, metadata, opened[number]))
            for number in range(4)
        ]
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in opened)), 20)

        async def send(number: int) -> int:
            request = messages.SendMessageRequest(
                workspace_id=place.workspace_id,
                conversation_id=place.conversation_id,
                client_message_id=str(uuid.uuid4()),
                text=f"{number}",
            )
            stub = messages_rpc.MessageServiceStub(replicas[number % 2])
            return int((await stub.SendMessage(request, timeout=10, metadata=metadata)).message.seq)

        seqs = await asyncio.gather(*(send(number) for number in range(MESSAGES)))
        assert sorted(seqs) == list(range(1, MESSAGES + 1))
        streams = await asyncio.wait_for(asyncio.gather(*listening), 40)
    assert [message.seq for message in streams[0]] == list(range(1, MESSAGES + 1))
    assert all(stream == streams[0] for stream in streams)
