"""What a server takes at once, and how the handlers of each kind of RPC are wrapped."""

import asyncio
from typing import Any

import grpc
import pytest
from guildhall.options.v1 import access_pb2

from services.chassis import interceptors
from services.chassis.contracts import Rpc
from services.chassis.errors import Overloaded
from services.chassis.interceptors import Interceptors
from services.chassis.sessions import Sessions
from services.chassis.telemetry import CallLog
from services.chassis.tokens import Verifier

HANDLERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


async def nobody(*_: object) -> Any:
    raise AssertionError("not called here")


@pytest.fixture
async def guard() -> Interceptors:
    return Interceptors(service="x", verifier=Verifier(nobody), sessions=Sessions(nobody), log=CallLog("x", "error"))


def rpc(*, client_streaming: bool = False, server_streaming: bool = False, scope: str = "x.y") -> Rpc:
    """An RPC for service accounts."""
    access = access_pb2.Access(callers=[access_pb2.CALLER_BACKEND], scope=scope)
    return Rpc("/x.v1.Y/Z", access, server_streaming, client_streaming, "x.v1.R", "x.v1.A")


@pytest.mark.parametrize(("streaming", "most"), [(True, interceptors.MOST_STREAMS), (False, interceptors.MOST_UNARY)])
async def test_as_many_are_let_in_as_fit_and_another_once_one_has_gone(
    guard: Interceptors, streaming: bool, most: int
) -> None:
    for _ in range(most):
        guard.take_place(streaming)
    for _ in range(2):
        with pytest.raises(Overloaded):
            guard.take_place(streaming)
    guard.take_place(not streaming)
    guard.leave_place(streaming)
    guard.take_place(streaming)
    with pytest.raises(Overloaded):
        guard.take_place(streaming)


@pytest.mark.parametrize(("client_streaming", "server_streaming"), HANDLERS)
async def test_a_handler_stays_of_the_kind_that_it_is(
    guard: Interceptors, client_streaming: bool, server_streaming: bool
) -> None:
    access = access_pb2.Access(callers=[access_pb2.CALLER_USER])
    named = Rpc("/x.v1.Y/Z", access, server_streaming, client_streaming, "x.v1.R", "x.v1.A")
    handler = HANDLERS[client_streaming, server_streaming](asyncio.sleep, bytes, bytes)

    wrapped = guard.wrap(named, handler)

    assert (wrapped.request_streaming, wrapped.response_streaming) == (client_streaming, server_streaming)


@pytest.mark.parametrize("changes", [{"client_streaming": True}, {"scope": ""}])
async def test_service_accounts_are_let_in_by_a_scope_and_with_one_request_only(
    guard: Interceptors, changes: dict[str, Any]
) -> None:
    handler = grpc.unary_unary_rpc_method_handler(asyncio.sleep, bytes, bytes)
    assert guard.wrap(rpc(), handler).unary_unary
    with pytest.raises(TypeError, match="service accounts need a scope and a single request"):
        guard.wrap(rpc(**changes), handler)
