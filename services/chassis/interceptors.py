"""What stands between the wire and a handler, in this order: errors, capacity, deadline, certificate, token,
well-formedness and validation, bound workspace, session.

One wrapper per RPC is made at start, so that a call passes one frame, not eight.
"""

from __future__ import annotations  # grpc's classes are generic for the type checker only

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast

import grpc
import protovalidate
import structlog
import uuid_utils
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from guildhall.options.v1 import access_pb2

from services.chassis import metrics, traces
from services.chassis.call import CURRENT, Call
from services.chassis.contracts import Rpc
from services.chassis.errors import (
    CallerNotAllowed,
    DeadlineExceeded,
    Fault,
    Internal,
    InvalidRequest,
    MalformedRequest,
    NotFound,
    Overloaded,
    PeerNotAllowed,
    Unauthenticated,
    fault_of,
    status_of,
)
from services.chassis.sessions import Sessions
from services.chassis.telemetry import STREAMS, CallLog, Counters, places
from services.chassis.tls import peer_name
from services.chassis.tokens import Claims, Verifier

log = structlog.get_logger()

DEFAULT_SECONDS = 5.0
LONGEST_SECONDS = 10.0
SHORTEST_SECONDS = 0.05
MOST_UNARY = 1024
MOST_STREAMS = 1000
FOREVER = float("inf")
MOST_FIELDS = 25
"""In one refusal: gRPC drops an answer whose metadata is over 16 KiB."""


class Malformed:
    """Stands for a request whose bytes could not be parsed; parsing runs before any handler could answer."""


MALFORMED = Malformed()


class Interceptors:
    """Wraps the handlers of one service."""

    def __init__(self, *, service: str, verifier: Verifier, sessions: Sessions, log: CallLog) -> None:
        self.domain = f"guildhall.{service}"
        self.log = log
        self._verifier = verifier
        self._sessions = sessions
        self._unary = 0
        self._streams = 0
        metrics.IN_FLIGHT.set_function(lambda: self._unary)

    def wrap(self, rpc: Rpc, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler with everything before it."""
        parse = _parser(handler.request_deserializer)
        write = handler.response_serializer
        if rpc.lets_in(access_pb2.CALLER_BACKEND) and (rpc.client_streaming or not rpc.access.scope):
            # A streamed request is not held against the workspaces that an account is bound to.
            raise TypeError(f"{rpc.name}: service accounts need a scope and a single request")
        if rpc.client_streaming and not rpc.server_streaming:
            gather = self._gather(rpc, cast(Any, handler.stream_unary))
            return grpc.stream_unary_rpc_method_handler(gather, parse, write)
        if rpc.client_streaming:
            both = self._both(rpc, cast(Any, handler.stream_stream))
            return grpc.stream_stream_rpc_method_handler(both, parse, write)
        if rpc.server_streaming:
            stream = self._stream(rpc, cast(Any, handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(stream, parse, _writer(write))
        return grpc.unary_unary_rpc_method_handler(self._one(rpc, cast(Any, handler.unary_unary)), parse, write)

    def _one(self, rpc: Rpc, behavior: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        around = self._around(rpc, "unary")

        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with around(context) as call:
                async with asyncio.timeout(call.remaining()):
                    await self._enter(rpc, call, request)
                    return await behavior(request, context)

        return answer

    def _stream(self, rpc: Rpc, behavior: Callable[[Any, Any], Any]) -> Callable[[Any, Any], AsyncIterator[Any]]:
        around = self._around(rpc, "server_stream")
        sent = Counters(rpc, "server_stream").sent

        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with around(context) as call:
                async with asyncio.timeout(DEFAULT_SECONDS):
                    await self._enter(rpc, call, request)
                call.deadline = FOREVER
                async with aclosing(behavior(request, context)) as responses:
                    async for response in responses:
                        sent.inc()
                        yield response

        return answer

    def _both(self, rpc: Rpc, behavior: Callable[[Any, Any], Any]) -> Callable[[Any, Any], AsyncIterator[Any]]:
        around = self._around(rpc, "bidi_stream")
        counters = Counters(rpc, "bidi_stream")

        async def answer(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with around(context) as call:
                await self._let_stream(rpc, call)
                async with aclosing(behavior(_validated(context, counters), context)) as responses:
                    async for response in responses:
                        counters.sent.inc()
                        yield response

        return answer

    def _gather(self, rpc: Rpc, behavior: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        around = self._around(rpc, "client_stream")
        counters = Counters(rpc, "client_stream")

        async def answer(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with around(context) as call:
                await self._let_stream(rpc, call)
                response = await behavior(_validated(context, counters), context)
                counters.sent.inc()
                return response

        return answer

    async def _let_stream(self, rpc: Rpc, call: Call) -> None:
        """Lets a stream of requests begin; it lasts as long as its handler lets it."""
        async with asyncio.timeout(DEFAULT_SECONDS):
            await self._identify(rpc, call)
            await self._require_session(rpc, call)
        call.deadline = FOREVER

    def _around(self, rpc: Rpc, kind: str) -> Callable[[grpc.aio.ServicerContext[Any, Any]], _Passage]:
        counters = Counters(rpc, kind)
        return lambda context: _Passage(self, counters, context)

    def take_place(self, streaming: bool) -> None:
        """Counts a call or stream in. OVERLOADED if there are as many as this server takes."""
        if streaming:
            if self._streams >= MOST_STREAMS:
                raise Overloaded("This server has as many open streams as it takes; come back later.")
            self._streams += 1
            STREAMS.set(self._streams)
        else:
            if self._unary >= MOST_UNARY:
                raise Overloaded
            self._unary += 1

    def leave_place(self, streaming: bool) -> None:
        """Counts it out."""
        if streaming:
            self._streams -= 1
            STREAMS.set(self._streams)
        else:
            self._unary -= 1

    async def _enter(self, rpc: Rpc, call: Call, request: Any) -> None:
        """Lets the call in, or refuses it."""
        await self._identify(rpc, call)
        validate(request)
        if call.workspace_ids:
            _require_bound_workspace(call, request)
        await self._require_session(rpc, call)

    async def _identify(self, rpc: Rpc, call: Call) -> None:
        """Certificate and token."""
        if rpc.lets_in(access_pb2.CALLER_PEER):
            if call.peer not in rpc.access.peers:
                raise PeerNotAllowed
        elif not call.peer:
            raise PeerNotAllowed
        if call.token or rpc.needs_token:
            if not call.token:
                raise Unauthenticated
            if not rpc.lets_in(access_pb2.CALLER_OPEN):
                _admit(rpc, call, await self._verifier.verify(call.token))

    async def _require_session(self, rpc: Rpc, call: Call) -> None:
        if rpc.needs_token and rpc.access.session != access_pb2.SESSION_CHECK_IN_FLUSH:
            await self._sessions.require_alive(call.session_id, deadline=call.deadline)


class _Passage:
    """One call's way in and out: errors outermost, then capacity; counted and logged at the end."""

    __slots__ = ("_began", "_call", "_context", "_counters", "_interceptors", "_placed", "_span")

    def __init__(
        self, interceptors: Interceptors, counters: Counters, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        self._interceptors = interceptors
        self._counters = counters
        self._context = context
        self._placed = False

    async def __aenter__(self) -> Call:
        self._began = time.perf_counter()
        self._counters.begin()
        self._call = _begin(self._counters.rpc, self._context)
        CURRENT.set(self._call)
        if traces.active is not None:
            metadata = self._context.invocation_metadata()
            self._span = traces.active.begin(self._call.rpc, metadata, request_id=self._call.request_id)
        try:
            self._interceptors.take_place(self._counters.streaming)
            self._placed = True
            if self._call.remaining() < SHORTEST_SECONDS:
                raise DeadlineExceeded("Less than 50 ms of the call's time were left, so it was not begun.")
        except Fault as fault:
            await self.__aexit__(type(fault), fault, fault.__traceback__)
        return self._call

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._placed:
            self._interceptors.leave_place(self._counters.streaming)
        if error is None:
            self._end("OK", "")
        elif isinstance(error, Exception):
            await self._refuse(error)
        else:
            # Cancelled: no status is sent, and swallowing it would leak the call.
            self._end("CANCELLED", "")

    async def _refuse(self, error: Exception) -> None:
        call = self._call
        fault = fault_of(error)
        if fault is None:
            log.error("defect", rpc=call.rpc, request_id=call.request_id, exc=places(error))
            fault = Internal()
        self._end(fault.code.name, fault.reason)
        status = status_of(fault, domain=self._interceptors.domain, request_id=call.request_id)
        details = ("grpc-status-details-bin", status.SerializeToString())
        await self._context.abort(fault.code, status.message, (("x-request-id", call.request_id), details))

    def _end(self, code: str, reason: str) -> None:
        seconds = time.perf_counter() - self._began
        self._counters.end(code, seconds)
        if traces.active is not None:
            traces.active.end(self._span, code, reason)
        self._interceptors.log.write(self._call, code=code, reason=reason, seconds=seconds)


def _admit(rpc: Rpc, call: Call, claims: Claims) -> None:
    """Notes who calls. CALLER_NOT_ALLOWED for a user at a door for service accounts, or the other way round."""
    call.session_id = claims.session_id
    if claims.scopes is None:
        call.user_id = claims.subject_id
        if rpc.needs_token and not rpc.lets_in(access_pb2.CALLER_USER):
            raise CallerNotAllowed(f"Only a service account with the scope {rpc.access.scope} may call this RPC.")
        return
    call.service_account_id, call.workspace_ids = claims.subject_id, claims.workspace_ids
    if rpc.needs_token and not rpc.lets_in(access_pb2.CALLER_BACKEND):
        raise CallerNotAllowed("A service account may not call this RPC; a signed-in user may.")
    if rpc.needs_token and rpc.access.scope not in claims.scopes:
        raise CallerNotAllowed(f"The service account lacks the scope {rpc.access.scope}.")


def _require_bound_workspace(call: Call, request: Any) -> None:
    """Keeps a service account to the workspaces that it is bound to: any other does not exist for it."""
    workspace_id = getattr(request, "workspace_id", None)
    if workspace_id is None:
        raise CallerNotAllowed("The service account is bound to workspaces, and this RPC is not about one.")
    if workspace_id.lower() not in call.workspace_ids:
        raise NotFound


def validate(request: Any) -> None:
    """MALFORMED_REQUEST for bytes that did not parse; INVALID_REQUEST naming each field that breaks a rule."""
    if isinstance(request, Malformed):
        raise MalformedRequest
    # Looked for in the bytes first: that costs a tenth of going through the fields, and nearly always there is none.
    paths = _nul_paths(request) if b"\0" in request.SerializeToString() else []
    faults = [(path, "must not contain NUL characters") for path in paths]
    try:
        protovalidate.validate(request)
    except protovalidate.ValidationError as error:
        faults += [(_path(violation), _what(violation)) for violation in error.violations]
    if faults:
        raise InvalidRequest(fields=faults[:MOST_FIELDS])


async def _validated(context: grpc.aio.ServicerContext[Any, Any], counters: Counters) -> AsyncIterator[Any]:
    # Not through gRPC's iterator, and popped: both would keep a message until the next one is asked for, twice the
    # memory for whoever waits with what was in it.
    while (taken := [await context.read()])[0] is not grpc.aio.EOF:
        counters.received.inc()
        validate(taken[0])
        yield taken.pop()


def _path(violation: Any) -> str:
    """The field's path as AIP-193 wants it: "positions[3].event_seq". A rule of a whole message has it as its id."""
    path = ""
    for element in violation.proto.field.elements if violation.proto.field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value}]"
    return path or str(violation.proto.rule_id)


def _what(violation: Any) -> str:
    return str(violation.proto.message or violation.proto.rule_id)


def _nul_paths(message: Message, prefix: str = "") -> list[str]:
    """Paths of text fields that hold NUL, which PostgreSQL's text cannot (lone surrogates do not parse at all)."""
    paths = []
    for field, value in message.ListFields():
        if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE):
            continue
        repeated = field.is_repeated
        for number, item in enumerate(value if repeated else (value,)):
            path = f"{prefix}{field.name}[{number}]" if repeated else f"{prefix}{field.name}"
            if isinstance(item, str):
                if "\0" in item:
                    paths.append(path)
            else:
                paths += _nul_paths(item, f"{path}.")
    return paths


def _parser(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    if parse is None:
        raise TypeError("a handler without a deserialiser")

    def parse_or_mark(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return MALFORMED

    return parse_or_mark


def _writer(write: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """Lets through what a handler has serialised itself, once for many streams."""
    if write is None:
        raise TypeError("a handler without a serialiser")

    def write_or_pass(response: Any) -> bytes:
        return response if isinstance(response, bytes) else write(response)

    return write_or_pass


def _begin(rpc: Rpc, context: grpc.aio.ServicerContext[Any, Any]) -> Call:
    """Reads what the wire says of a call. Only the gateway is believed about who is behind it."""
    authorization = request_id = client_address = user_agent = ""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            authorization = str(value)
        elif key == "x-request-id":
            request_id = str(value)
        elif key == "x-guildhall-client-address":
            client_address = str(value)
        elif key == "user-agent":
            user_agent = str(value)
    # Not auth_context(), which copies the whole certificate for each call.
    peer = peer_name(context.peer_identity_key(), context.peer_identities())
    remaining = context.time_remaining()
    seconds = DEFAULT_SECONDS if remaining is None else min(remaining, LONGEST_SECONDS)
    return Call(
        rpc=rpc.name,
        request_id=(request_id[:64] if peer else "") or str(uuid_utils.uuid7()),
        peer=peer,
        deadline=time.monotonic() + seconds,
        client_address=client_address[:64] if peer == "gateway" else "",
        user_agent=user_agent[:200] if peer == "gateway" else "",
        token=authorization[7:] if authorization[:7].lower() == "bearer " else "",
    )
