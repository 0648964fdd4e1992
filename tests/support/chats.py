"""A workspace in which messages are changed, reacted to, read and aged."""

import uuid
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc
from guildhall.messaging.v1 import event_service_pb2 as events
from guildhall.messaging.v1 import event_service_pb2_grpc as events_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc
from guildhall.messaging.v1 import reaction_service_pb2 as reactions
from guildhall.messaging.v1 import reaction_service_pb2_grpc as reactions_rpc
from guildhall.messaging.v1 import read_state_service_pb2 as read_states
from guildhall.messaging.v1 import read_state_service_pb2_grpc as read_states_rpc

from tests.service.test_messaging_conversations import Room
from tests.support.files import FileRoom
from tests.support.suite import Person


class Chat(Room):
    """A room, and what can be done with its messages. Calls are to be awaited for the response."""

    def _call(self, person: Person, stub_class: Any, method: str, request: Any, channel: Any = None) -> Any:
        stub = stub_class(channel) if channel is not None else self.suite.stub(stub_class)
        return person.call(getattr(stub, method), request, timeout=30)

    def _place(self, message: messages.Message | None = None, conversation_id: str = "") -> dict[str, str]:
        if message is not None:
            place = {"workspace_id": self.workspace_id, "conversation_id": message.conversation_id}
            return {**place, "message_id": message.message_id}
        return {"workspace_id": self.workspace_id, "conversation_id": conversation_id or self.channel_id}

    def get(self, person: Person, message: messages.Message) -> Any:  # type: ignore[override]
        """GetMessage."""
        request = messages.GetMessageRequest(**self._place(message))
        return self._call(person, messages_rpc.MessageServiceStub, "GetMessage", request)

    async def got(self, person: Person, message: messages.Message) -> messages.Message:
        """The message as somebody reads it."""
        found = (await self.get(person, message)).message
        assert isinstance(found, messages.Message)
        return found

    def edit(self, person: Person, message: messages.Message, text: str = "edited", **more: Any) -> Any:
        """EditMessage."""
        request = messages.EditMessageRequest(**self._place(message), text=text, **more)
        return self._call(person, messages_rpc.MessageServiceStub, "EditMessage", request)

    def delete(self, person: Person, message: messages.Message, **more: Any) -> Any:
        """DeleteMessage."""
        request = messages.DeleteMessageRequest(**self._place(message), **more)
        return self._call(person, messages_rpc.MessageServiceStub, "DeleteMessage", request)

    def revisions(self, person: Person, message: messages.Message, **page: Any) -> Any:
        """ListMessageRevisions."""
        request = messages.ListMessageRevisionsRequest(**self._place(message), **page)
        return self._call(person, messages_rpc.MessageServiceStub, "ListMessageRevisions", request)

    def react(
        self, person: Person, message: messages.Message, emoji: str = "👍", *, channel: Any = None, **more: Any
    ) -> Any:
        """AddReaction."""
        request = reactions.AddReactionRequest(**self._place(message), emoji=emoji, **more)
        return self._call(person, reactions_rpc.ReactionServiceStub, "AddReaction", request, channel)

    def unreact(self, person: Person, message: messages.Message, emoji: str = "👍", **more: Any) -> Any:
        """RemoveReaction."""
        request = reactions.RemoveReactionRequest(**self._place(message), emoji=emoji, **more)
        return self._call(person, reactions_rpc.ReactionServiceStub, "RemoveReaction", request)

    def reactions(self, person: Person, message: messages.Message, **page: Any) -> Any:
        """ListReactions."""
        request = reactions.ListReactionsRequest(**self._place(message), **page)
        return self._call(person, reactions_rpc.ReactionServiceStub, "ListReactions", request)

    def mark_read(
        self, person: Person, seq: int, conversation_id: str = "", *, channel: Any = None, **more: Any
    ) -> Any:
        """MarkRead."""
        request = read_states.MarkReadRequest(**self._place(None, conversation_id), seq=seq, **more)
        return self._call(person, read_states_rpc.ReadStateServiceStub, "MarkRead", request, channel)

    def mark_unread(self, person: Person, seq: int, conversation_id: str = "", **more: Any) -> Any:
        """MarkUnread."""
        request = read_states.MarkUnreadRequest(**self._place(None, conversation_id), seq=seq, **more)
        return self._call(person, read_states_rpc.ReadStateServiceStub, "MarkUnread", request)

    def read_states(self, person: Person, conversation_id: str = "", **page: Any) -> Any:
        """ListReadStates."""
        request = read_states.ListReadStatesRequest(**self._place(None, conversation_id), **page)
        return self._call(person, read_states_rpc.ReadStateServiceStub, "ListReadStates", request)

    def type(self, person: Person, conversation_id: str = "", *, channel: Any = None) -> Any:
        """SendTyping."""
        request = events.SendTypingRequest(**self._place(None, conversation_id))
        return self._call(person, events_rpc.EventServiceStub, "SendTyping", request, channel)

    async def replied(self, person: Person, message: messages.Message, text: str = "reply") -> messages.Message:
        """An answer to a message."""
        request = self.send_request(text, to=message.conversation_id)
        request.reply_to_message_id = message.message_id
        answer = await self._call(person, messages_rpc.MessageServiceStub, "SendMessage", request)
        assert isinstance(answer.message, messages.Message)
        return answer.message

    @property
    def with_files(self) -> FileRoom:
        """The same workspace, for files."""
        return FileRoom(self.suite, self.admin, self.workspace_id, self.admin_member_id, self.channel_id)

    async def sent_with_file(self, person: Person) -> tuple[messages.Message, str]:
        """A message that holds a file, and the file's id."""
        request = self.send_request()
        file_id = await self.with_files.uploaded(person)
        request.file_ids.append(file_id)
        answer = await self._call(person, messages_rpc.MessageServiceStub, "SendMessage", request)
        assert isinstance(answer.message, messages.Message)
        return answer.message, file_id

    async def allow_edits_for(self, window: timedelta) -> None:
        """Sets the workspace's time for edits."""
        workspace = workspaces.Workspace(workspace_id=self.workspace_id, message_edit_window=Duration())
        workspace.message_edit_window.FromTimedelta(window)
        request = workspaces.UpdateWorkspaceRequest(
            workspace=workspace, update_mask=FieldMask(paths=["message_edit_window"])
        )
        await self._call(self.admin, workspaces_rpc.WorkspaceServiceStub, "UpdateWorkspace", request)

    def rows(self, query: str, *values: Any) -> list[Any]:
        """What messaging's own role finds; nothing for a statement without rows."""
        return self.suite.rows("messaging", query, values)

    def archive(self, conversation_id: str = "") -> None:
        """Nothing in it changes any more."""
        query = "UPDATE conversations SET archived_at = statement_timestamp() WHERE id = %s"
        self.rows(query, conversation_id or self.channel_id)

    def retain_for_a_day(self, conversation_id: str = "") -> None:
        """Messages are seen for a day."""
        query = "UPDATE conversations SET retention_seconds = 86400 WHERE id = %s"
        self.rows(query, conversation_id or self.channel_id)

    def age(self, *aged: messages.Message, hours: int = 25) -> None:
        """Has messages be older by some hours."""
        query = "UPDATE messages SET created_at = created_at - make_interval(hours => %s) WHERE id = ANY(%s::uuid[])"
        self.rows(query, hours, [message.message_id for message in aged])

    def event_kinds(self, conversation_id: str = "") -> list[str]:
        """The kinds of the stored events besides messages, in order."""
        query = "SELECT kind FROM conversation_events WHERE conversation_id = %s ORDER BY event_seq"
        return [kind for (kind,) in self.rows(query, conversation_id or self.channel_id)]

    def heads(self, conversation_id: str = "") -> tuple[int, int]:
        """The conversation's two counters."""
        query = "SELECT last_seq, last_event_seq FROM conversations WHERE id = %s"
        last_seq, last_event_seq = self.rows(query, conversation_id or self.channel_id)[0]
        return last_seq, last_event_seq

    def direct(self, *people: tuple[Person, str]) -> str:
        """A direct conversation of people and their member ids."""
        conversation_id = str(uuid.uuid4())
        self.rows(
            "INSERT INTO conversations (id, workspace_id, kind, name, visibility, created_by_member_id, direct_key) "
            "VALUES (%s, %s, 'direct', '', 'private', %s, %s)",
            conversation_id,
            self.workspace_id,
            people[0][1],
            uuid.uuid4().bytes,
        )
        for person, member_id in people:
            self.join(conversation_id, person, member_id)
        return conversation_id

    def join(self, conversation_id: str, person: Person, member_id: str) -> None:
        """Has somebody take part."""
        self.rows(
            "INSERT INTO participants (conversation_id, member_id, user_id, workspace_id) VALUES (%s, %s, %s, %s)",
            conversation_id,
            member_id,
            person.user_id,
            self.workspace_id,
        )
