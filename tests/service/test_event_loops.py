"""What belongs to an event loop is made inside it: a service's own entry point, with everything that it makes noted."""

import os
import signal
import subprocess
import sys

import pytest

from deploy.stack import services as stack_services
from deploy.stack.settings import SERVICES
from tests.support.suite import Suite

# grpc.aio binds a channel, and with it its stubs, to the loop that runs where it is made; without one, to another.
SCRIPT = """
import asyncio, atexit, runpy, sys
import grpc.aio
from grpc.aio import _channel
from services.chassis.peer_channel import PeerChannel

made = {}

def noting(owner, name):
    make = getattr(owner, name)
    def noted(*arguments, **named):
        try:
            asyncio.get_running_loop()
            made.setdefault(name, []).append("inside")
        except RuntimeError:
            made.setdefault(name, []).append("outside")
        return make(*arguments, **named)
    setattr(owner, name, noted)

for name in ("secure_channel", "insecure_channel", "server"):
    noting(grpc.aio, name)
for name in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
    noting(_channel.Channel, name)
    noting(PeerChannel, name)
atexit.register(lambda: print("made", *sorted(f"{name}:{where}" for name in made for where in set(made[name]))))
service = sys.argv.pop(1)
sys.argv[0] = f"services.{service}"
runpy.run_module(f"services.{service}", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("service", SERVICES)
def test_channels_stubs_and_servers_are_made_inside_the_running_loop(service: str, suite: Suite) -> None:
    stack = suite.stack
    environment = {
        **os.environ,
        **stack_services.environment(stack.settings, service, postgres=stack.postgres, valkey=stack.valkey),
        "GUILDHALL_LISTEN": "127.0.0.1:0",
        "GUILDHALL_HEALTH_LISTEN": "127.0.0.1:0",
        "GUILDHALL_METRICS_LISTEN": "127.0.0.1:0",
        "GUILDHALL_DRAIN_SECONDS": "0",
        "GUILDHALL_LOG_LEVEL": "info",
    }
    command = [sys.executable, "-c", SCRIPT, service, "serve"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert any('"event": "serving"' in line for line in process.stdout)
            process.send_signal(signal.SIGTERM)
            said = process.stdout.read().splitlines()
        finally:
            process.kill()
    # identity asks nobody about sessions, but every service delivers events.
    made = set(said[-1].split()[1:])
    assert made >= {"secure_channel:inside", "server:inside", "unary_unary:inside"}
    assert {each for each in made if not each.endswith(":inside")} == set()
