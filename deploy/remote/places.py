"""Workspaces and conversations by what people call them."""

from collections.abc import Sequence
from typing import Any

from guildhall.client import Client
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc

from deploy.remote.texts import plain
from deploy.stack.settings import StackError

_MOST_LISTED = 20


async def find_workspace(client: Client, named: str) -> workspaces.Workspace:
    """The workspace of this id or name; without one, the only one that the caller is in. `StackError` lists them."""
    pages = client.pages(
        client.stub(workspaces_rpc.WorkspaceServiceStub).ListWorkspaces,
        workspaces.ListWorkspacesRequest(),
        lambda page: page.workspaces,
    )
    found: Any = _choose([(each.workspace_id, each.name, each) async for each in pages], named, "workspace")
    workspace: workspaces.Workspace = found
    return workspace


async def list_conversations(
    client: Client, workspace_id: str, *, archived: bool = False
) -> list[conversations.Conversation]:
    """The conversations that the caller sees and that are not archived, or those that are."""
    pages = client.pages(
        client.stub(conversations_rpc.ConversationServiceStub).ListConversations,
        conversations.ListConversationsRequest(workspace_id=workspace_id, archived=archived),
        lambda page: page.conversations,
    )
    return [each async for each in pages]


def choose_conversation(among: Sequence[conversations.Conversation], named: str) -> conversations.Conversation:
    """The conversation of this id or name; without one, the only one. `StackError` lists them."""
    found: Any = _choose([(each.conversation_id, each.name, each) for each in among], named, "conversation")
    conversation: conversations.Conversation = found
    return conversation


def _choose(among: Sequence[tuple[str, str, object]], named: str, kind: str) -> object:
    fitting = [thing for key, name, thing in among if not named or named in (key, name)]
    if len(fitting) == 1:
        return fitting[0]
    if not among:
        raise StackError(f"you see no {kind} here yet; ask to be let into one, or make one with any client")
    lines = [f"  {key}  {plain(name)}" for key, name, _ in among[:_MOST_LISTED]]
    if len(among) > _MOST_LISTED:
        lines.append(f"  … and {len(among) - _MOST_LISTED} more")
    problem = f"no {kind} that you see is {named!r}" if named and not fitting else f"which {kind}?"
    raise StackError("\n".join([f"{problem} Name one by its id or name, with --{kind}:", *lines]))
