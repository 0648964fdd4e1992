"""What goes over the wire: paths, and requests that are serialised once and then only stamped.

The generator shares the machine with what it measures, so it works on bytes, the same for the suite and for the echo.
"""

import itertools
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
from guildhall.messaging.v1 import message_service_pb2 as messages

SEND = "/guildhall.messaging.v1.MessageService/SendMessage"
PUBLISH = "/guildhall.messaging.v1.MessageService/PublishMessages"
LIST = "/guildhall.messaging.v1.MessageService/ListMessages"
SEARCH = "/guildhall.messaging.v1.MessageService/SearchMessages"
SUBSCRIBE = "/guildhall.messaging.v1.EventService/Subscribe"
CHECK_ACCESS = "/guildhall.membership.v1.AccessService/BatchCheckAccess"
ECHO = "/guildhall.load.v1.EchoService/Echo"
ECHO_STREAM = "/guildhall.load.v1.EchoService/EchoStream"
GET_USER = "/guildhall.identity.v1.UserService/GetUser"

TEXT_CHARACTERS = 100
_ID_HOLE = "00000000-0000-4000-8000-000000000000"
_STAMP_HOLE = "0" * 19
"""Nanoseconds since the machine's start fill it for 300 years."""


@dataclass(frozen=True)
class Message:
    """A SendMessageRequest with holes for the client_message_id and, at the text's start, the time of sending."""

    before_id: bytes
    before_stamp: bytes
    after: bytes

    def stamped(self, message_id: bytes, nanoseconds: int) -> bytes:
        """The request, serialised."""
        return b"%s%s%s%019d%s" % (self.before_id, message_id, self.before_stamp, nanoseconds, self.after)

    def framed(self) -> "Message":
        """The same as an item of a PublishMessagesRequest: frames are items joined together."""
        item = messages.SendMessageRequest.FromString(self.stamped(_ID_HOLE.encode(), 0))
        return _cut(messages.PublishMessagesRequest(messages=[item]).SerializeToString())


def message(workspace_id: str, conversation_id: str) -> Message:
    """A message of usual length to a conversation."""
    text = _STAMP_HOLE.ljust(TEXT_CHARACTERS, ".")
    request = messages.SendMessageRequest(
        workspace_id=workspace_id, conversation_id=conversation_id, client_message_id=_ID_HOLE, text=text
    )
    return _cut(request.SerializeToString())


def _cut(serialised: bytes) -> Message:
    before_id, rest = serialised.split(_ID_HOLE.encode())
    before_stamp, after = rest.split(_STAMP_HOLE.encode(), 1)
    return Message(before_id, before_stamp, after)


def message_ids() -> Callable[[], bytes]:
    """A source of UUIDs that no other one gives; a counter is cheaper than randomness for each."""
    salt = secrets.token_hex(4).encode()
    numbers = itertools.count(1)

    def next_id() -> bytes:
        return b"%s-0000-4000-8000-%012x" % (salt, next(numbers))

    return next_id


def sent_at(text: str) -> int:
    """The time in a message's text, in nanoseconds of the monotonic clock, which all processes here share."""
    return int(text[: len(_STAMP_HOLE)])


def now() -> int:
    """Nanoseconds of the monotonic clock."""
    return time.monotonic_ns()


@dataclass(frozen=True)
class Tls:
    """Files' contents for a call past the gateway, to a service's own port, as one of its peers."""

    server: str
    ca: bytes
    certificate: bytes
    key: bytes


def open_channels(target: str, count: int = 1, tls: Tls | None = None) -> list[grpc.aio.Channel]:
    """Channels with a connection each: one connection is served by one of the gateway's threads only."""
    options: list[tuple[str, str | int]] = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    options.append(("grpc.max_receive_message_length", 16 << 20))
    if tls is None:
        return [grpc.aio.insecure_channel(target, options=options) for _ in range(count)]
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
    options.append(("grpc.ssl_target_name_override", tls.server))
    return [grpc.aio.secure_channel(target, credentials, options=options) for _ in range(count)]


async def close_channels(channels: Sequence[grpc.aio.Channel]) -> None:
    """Close them, ending what still runs on them."""
    for channel in channels:
        await channel.close(None)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """What a signed-in caller sends with each call."""
    return (("authorization", f"Bearer {token}"),)
