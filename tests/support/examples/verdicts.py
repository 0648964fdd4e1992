"""What came of a call, in a word."""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.chassis import contracts
from tests.support.examples import Example, service_of
from tests.support.examples.cast import Caller
from tests.support.reflected import Metadata, ask
from tests.support.suite import Suite, refusal_of

OK = "OK"
EMPTY = "OK_EMPTY"
STREAM_SECONDS = 2.0


async def called(
    suite: Suite,
    name: str,
    rpc: contracts.Rpc,
    request: Message | bytes,
    *,
    metadata: Metadata = (),
    certificate: str = "gateway",
    seconds: float = STREAM_SECONDS,
) -> tuple[list[Message], grpc.aio.AioRpcError | None]:
    """The call of an example, or of what was made of it; of a stream the first frame."""
    return await ask(
        suite,
        rpc,
        request,
        metadata=metadata,
        certificate=certificate,
        service=service_of(name),
        seconds=seconds,
        most=1,
    )


def verdict(messages: Sequence[Message], error: grpc.aio.AioRpcError | None) -> str:
    """OK, OK_EMPTY for an answer that could tell something and does not, or CODE:REASON."""
    if error is not None:
        return f"{error.code().name}:{refusal_of(error).reason}"
    first: Any = messages[0] if messages else None
    if first is None:
        return EMPTY
    results = getattr(first, "results", ())
    if results and getattr(results[0], "error", None) is not None and results[0].HasField("error"):
        return _of_status(results[0].error)
    told = {field.name for field, _ in first.ListFields()} - {"next_page_token"}
    return OK if told or not first.DESCRIPTOR.fields else EMPTY


def more(messages: Sequence[Message]) -> str:
    """The token of the next page, where there is one."""
    return str(getattr(messages[0], "next_page_token", "")) if messages else ""


def _of_status(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        detail.Unpack(info)
    return f"{code_pb2.Code.Name(status.code)}:{info.reason}"


def door(rpc: contracts.Rpc, example: Example, caller: Caller, forwarded: Metadata) -> tuple[Metadata, str]:
    """Token and certificate with which a caller comes."""
    if caller.column not in ("peer", "wrong_peer"):
        return caller.metadata, "gateway"
    peers = list(rpc.access.peers)
    listed = example.peer or (peers[0] if peers else "messaging")
    if caller.column == "peer":
        return forwarded, listed
    others = [name for name in ("identity", "membership", "guest", "messaging") if name not in peers]
    return forwarded, example.wrong_peer or (others[0] if others else "guest")
