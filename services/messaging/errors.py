"""What only messaging refuses: one class for each reason of its own in ErrorReason."""

import grpc

from services.chassis.errors import Fault


class GuestLocked(Fault):
    """metadata: lock_time and grace_end_time, RFC 3339."""

    code, reason = grpc.StatusCode.PERMISSION_DENIED, "GUEST_LOCKED"
    text = "Your time as a guest is over; you can read until the grace ends. Ask your sponsor to extend it."


class TooManyStreams(Fault):
    code, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS"
    text = "You have as many open streams as allowed; close one first."


class ConversationArchived(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "CONVERSATION_ARCHIVED"
    text = "The conversation is archived: it can be read, and nothing in it changes. ArchiveConversation takes it back."


class ReferenceGone(Fault):
    """`field` is the request's, whose id stands for nothing that is there."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "REFERENCE_GONE"
    text = "What the message refers to is not in the conversation, is not yours, or is no longer there."

    def __init__(self, field: str) -> None:
        super().__init__(fields=[(field, "is not in the conversation, is not yours, or is no longer there")])


class EditWindowOver(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "EDIT_WINDOW_OVER"
    text = "The workspace's time for editing a message is over; send a new one."


class MessageDeleted(Fault):
    code, reason, text = grpc.StatusCode.FAILED_PRECONDITION, "MESSAGE_DELETED", "The message was deleted."


class ConversationKind(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "CONVERSATION_KIND"
    text = "This kind of conversation does not allow it: who takes part is the group's to say, or is fixed."
