"""What only messaging refuses: one class for each reason of its own in ErrorReason."""

import grpc

from services.chassis.errors import Fault, PeerUnavailable


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


class UploadOffset(Fault):
    """metadata: received_bytes."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_OFFSET"

    def __init__(self, received_bytes: int) -> None:
        text = f"Nothing before this offset may be missing: go on from {received_bytes}."
        super().__init__(text, metadata={"received_bytes": str(received_bytes)})


class DigestMismatch(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "DIGEST_MISMATCH"
    text = (
        "The SHA-256 of what arrived is not the one announced, so the upload was removed. "
        "Hash exactly what you send, and begin with CreateUpload under a new request_id."
    )


class UploadTooLong(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_TOO_LONG"
    text = (
        "There is more data than the announced size_bytes, so an unfinished upload was removed. "
        "Begin with CreateUpload, with the size of exactly what you send, under a new request_id."
    )


class BlobsUnavailable(PeerUnavailable):
    """The store of files is to messaging what a peer is: work that met it away is put back, and no try counted."""

    code, reason = grpc.StatusCode.UNAVAILABLE, "BLOBS_UNAVAILABLE"
    text = "The store of files gave no answer or took nothing; try again later, an upload from its received_bytes."
