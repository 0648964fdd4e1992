"""Calls to other services: one channel per peer, mutual TLS, a deadline on every call."""

import asyncio
import json
from collections.abc import Awaitable
from typing import Protocol, TypeVar

import grpc

from services.chassis import traces
from services.chassis.call import CURRENT
from services.chassis.coalesce import FLUSH_SECONDS, is_cancelled
from services.chassis.errors import DeadlineExceeded, LimitReached, PeerUnavailable, info_of
from services.chassis.peer_channel import PeerChannel
from services.chassis.settings import ServeSettings
from services.chassis.tls import channel_credentials

Request_contra = TypeVar("Request_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)
Request = TypeVar("Request")
Response = TypeVar("Response")

HOP_SECONDS = 0.02
"""What each hop keeps of the caller's time, so that its own answer still arrives."""

UNANSWERED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                # Every PEER RPC is repeatable. CANCELLED is what a server that stops makes of calls it has not begun.
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ],
    }
)


class Rpc(Protocol[Request_contra, Response_co]):
    """One RPC of a generated stub."""

    def __call__(
        self,
        request: Request_contra,
        /,
        *,
        timeout: float | None = None,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> Awaitable[Response_co]: ...


def open_channel(settings: ServeSettings, peer: str) -> grpc.aio.Channel:
    """A channel to a peer, whose certificate must name it; it follows changes of our own certificate.

    To be called inside the running loop.
    """
    target: str = getattr(settings, f"{peer}_address")
    options = [
        ("grpc.ssl_target_name_override", peer),
        ("grpc.service_config", SERVICE_CONFIG),
        # A proxy of the environment is for the way out, not for peers.
        ("grpc.enable_http_proxy", 0),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Not a pause, but the least time that an attempt is given: a busy peer is slow to shake hands.
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    interceptors = traces.active.client_interceptors() if traces.active is not None else None
    return PeerChannel(
        [settings.tls_cert_file, settings.tls_key_file, settings.tls_ca_file],
        lambda: grpc.aio.secure_channel(
            target, channel_credentials(settings), options=options, interceptors=interceptors
        ),
    )


async def ask(
    rpc: Rpc[Request, Response], request: Request, *, timeout_seconds: float = FLUSH_SECONDS, for_user: bool = False
) -> Response:
    """Calls a peer, within what is left of the current call's time. `for_user` forwards that call's token.

    PEER_UNAVAILABLE if it gives no answer; its refusals come through as grpc.RpcError, for peers.py to translate.
    """
    call = CURRENT.get(None)
    metadata: list[tuple[str, str]] = []
    if call is not None:
        timeout_seconds = min(timeout_seconds, call.remaining())
        metadata.append(("x-request-id", call.request_id))
        if for_user:
            metadata.append(("authorization", f"Bearer {call.token}"))
    # In a flush too, or its own time-out would come first, and silence would look like the caller's impatience.
    timeout_seconds -= HOP_SECONDS
    if timeout_seconds <= 0:
        raise DeadlineExceeded
    try:
        return await rpc(request, timeout=timeout_seconds, metadata=tuple(metadata))
    except grpc.aio.AioRpcError as error:
        # A limit is an answer, whatever its code: trying again does not help.
        if error.code() in UNANSWERED and info_of(error).reason != LimitReached.reason:
            raise PeerUnavailable from error
        raise
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        # Not the caller, but the call: its channel was closed.
        raise PeerUnavailable from error
