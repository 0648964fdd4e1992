"""Whether a service serves: the question to its plaintext health port. `python -m deploy.stack.health PORT` asks it.

For healthchecks inside a container: exit code 0 if the service at that port of 127.0.0.1 says SERVING, else 1.
"""

import contextlib
import sys
from collections.abc import Callable, Sequence

from deploy.stack.settings import HOST

_PATIENCE_SECONDS = 3.0


def probe(port: int) -> Callable[[], bool]:
    """A question to one health port that answers quickly, whatever the process there is doing."""

    def ask() -> bool:
        return health(port) == "SERVING"

    return ask


def health(port: int, timeout_seconds: float = 0.3) -> str:
    """What grpc.health.v1 says on a port: SERVING, NOT_SERVING, or `no answer`."""
    # Imported late: gRPC takes longer to import than `guildhall down` takes to run.
    import grpc
    from grpc_health.v1 import health_pb2

    with contextlib.closing(
        grpc.insecure_channel(f"{HOST}:{port}", options=[("grpc.enable_http_proxy", 0)])
    ) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=""), timeout=timeout_seconds)
        except grpc.RpcError:
            return "no answer"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: Sequence[str]) -> int:
    """Asks, and says what the answer was."""
    answer = health(int(arguments[0]), _PATIENCE_SECONDS)
    print(answer)
    return 0 if answer == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
