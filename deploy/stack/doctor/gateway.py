"""The gateway: its version, and whether it carries a call as gRPC and as JSON all the way to a service."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator

from deploy.stack.doctor.findings import Finding, fail, ok
from deploy.stack.settings import HOST, Settings

_CALL_SECONDS = 5
_OLDEST_ENVOY = (1, 30)
_VERSION = re.compile(r"/(\d+)\.(\d+)\.(\d+)/")


def check_envoy(settings: Settings) -> Iterator[Finding]:
    """Envoy's version, by its admin interface."""
    port = settings.ports.envoy_admin
    log = settings.layout.logs / "envoy.log"
    try:
        info = json.loads(_get(f"http://{HOST}:{port}/server_info"))
    except (OSError, ValueError) as error:
        advice = f"read its log: tail -n 50 {log}; see that it runs: guildhall status"
        yield fail("envoy", f"no answer on its admin port {port} ({type(error).__name__})", advice)
        return
    found = _VERSION.search(str(info.get("version", "")))
    version = tuple(int(part) for part in found.groups()) if found else (0,)
    seen = ".".join(map(str, version))
    if version < _OLDEST_ENVOY:
        yield fail("envoy", seen, "Envoy 1.30 or newer is needed: upgrade it")
    else:
        yield ok("envoy", seen)


def read_published(settings: Settings) -> set[str] | None:
    """The ids of the public keys, by JSON through the gateway; None if it gives no answer."""
    try:
        answer = json.loads(_get(f"{settings.gateway_url}/.well-known/jwks.json"))
    except (OSError, ValueError):
        return None
    return {str(key.get("kid")) for key in answer.get("keys", [])}


def check_calls(settings: Settings, published: set[str] | None) -> Iterator[Finding]:
    """One call each way, which needs no sign-in: identity's public keys."""
    advice = "see the checks of envoy and identity; who listens: guildhall status"
    if published is None:
        yield fail("gateway json", f"no answer from {settings.gateway_url}/.well-known/jwks.json", advice)
    else:
        yield ok("gateway json", settings.gateway_url)
    # Imported late: gRPC takes longer to import than most commands take.
    import grpc
    from guildhall.identity.v1 import auth_service_pb2, auth_service_pb2_grpc

    with grpc.insecure_channel(settings.gateway_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            auth_service_pb2_grpc.AuthServiceStub(channel).GetJwks(
                auth_service_pb2.GetJwksRequest(), timeout=_CALL_SECONDS
            )
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else type(error).__name__
            yield fail("gateway grpc", f"{settings.gateway_address}: {code}", advice)
        else:
            yield ok("gateway grpc", settings.gateway_address)


def _get(url: str) -> bytes:
    # A proxy of the environment is for the way out, not for this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=_CALL_SECONDS) as answer:
        return bytes(answer.read())
