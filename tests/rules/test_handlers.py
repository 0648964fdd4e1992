"""Every RPC of the protos has a handler, written out and registered; every error reason has its class."""

from importlib import import_module

import pytest
from guildhall.events.v1 import event_sink_pb2

from services.chassis import contracts
from services.chassis.errors import FRAME_FAULTS, Fault
from tests.rules.servicers import generated_name, handlers, registers
from tests.rules.sources import SERVICES, Source, report, sources

SINK = event_sink_pb2.DESCRIPTOR.services_by_name["EventSink"].full_name
FRAME_REASONS = range(1, 100)


def proto_files() -> dict[str, str]:
    """The proto file of each service of the contracts."""
    return {service.full_name: service.file.name for service in contracts.services()}


def home(rpc: contracts.Rpc) -> tuple[tuple[Source, ...], tuple[Source, ...]]:
    """Where an RPC is answered, and where that is registered: its service, or the frame for EventSink."""
    if rpc.service == SINK:
        return sources("services/chassis"), sources("services/chassis/frame.py")
    folder = f"services/{rpc.service.split('.')[1]}"
    return sources(folder), sources(f"{folder}/__main__.py")


def unanswered(rpc: contracts.Rpc, generated: str, code: tuple[Source, ...], wiring: tuple[Source, ...]) -> list[str]:
    """What is missing for an RPC to be answered."""
    found = []
    count = len(handlers(code, generated, rpc.method))
    if count != 1:
        found.append(f"{rpc.name}: {count} classes derive from {generated} and define {rpc.method}; one must")
    if not registers(wiring, generated):
        found.append(f"{rpc.name}: its servicer is not registered in __main__.py: add it to the frame")
    return found


def reasons_of(service: str) -> dict[str, int]:
    """A service's ErrorReason without the prefix: name to number."""
    enum = import_module(f"guildhall.{service}.v1.error_reason_pb2").DESCRIPTOR.enum_types_by_name["ErrorReason"]
    return {value.name.removeprefix("ERROR_REASON_"): value.number for value in enum.values if value.number}


def own_faults(service: str) -> list[type[Fault]]:
    """The Fault classes that a service's errors.py defines."""
    module = import_module(f"services.{service}.errors")
    return [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Fault) and item.__module__ == module.__name__
    ]


def unpaired_reasons(reasons: dict[str, int], faults: list[type[Fault]]) -> list[str]:
    """Own reasons without exactly one class, and classes without a reason of their own."""
    own = {name for name, number in reasons.items() if number not in FRAME_REASONS}
    named = [fault.reason for fault in faults]
    found = [
        f"{name}: {named.count(name)} classes in errors.py; one must bear it"
        for name in sorted(own)
        if named.count(name) != 1
    ]
    return found + [f"{name} of errors.py is none of the service's own reasons" for name in named if name not in own]


@pytest.mark.parametrize("name", sorted(contracts.rpcs()))
def test_every_rpc_has_a_handler_that_is_registered(name: str) -> None:
    rpc = contracts.rpcs()[name]
    code, wiring = home(rpc)

    assert not (faults := unanswered(rpc, generated_name(rpc, proto_files()), code, wiring)), report(faults)


@pytest.mark.parametrize(
    ("code", "wiring", "count"),
    [
        (
            "class S(rpc.UserServiceServicer):\n    async def GetUser(self, r, c): ...",
            "f.add(rpc.add_UserServiceServicer_to_server, S())",
            0,
        ),
        ("class S(rpc.UserServiceServicer):\n    async def GetUser(self, r, c): ...", "", 1),
        ("class S(rpc.UserServiceServicer):\n    pass", "f.add(rpc.add_UserServiceServicer_to_server, S())", 1),
        ("class S:\n    async def GetUser(self, r, c): ...", "f.add(rpc.add_UserServiceServicer_to_server, S())", 1),
        ("class S(B, rpc.AuthServiceServicer):\n    async def GetUser(self, r, c): ...", "", 2),
    ],
)
def test_an_rpc_without_a_handler_is_found(code: str, wiring: str, count: int) -> None:
    rpc = contracts.rpcs()["/guildhall.identity.v1.UserService/GetUser"]
    head = "from guildhall.identity.v1 import user_service_pb2_grpc as rpc\n"
    given = [(Source("services/identity/x.py", head + text),) for text in (code, wiring)]

    assert len(unanswered(rpc, generated_name(rpc, proto_files()), *given)) == count


def test_the_first_hundred_reasons_are_the_frames_and_the_same_everywhere() -> None:
    expected = {fault.reason for fault in FRAME_FAULTS}
    shared = {service: {n: i for n, i in reasons_of(service).items() if i in FRAME_REASONS} for service in SERVICES}

    assert len(expected) == len(FRAME_FAULTS)
    for service in SERVICES:
        assert set(shared[service]) == expected, f"{service}'s reasons 1 to 99 are not those of FRAME_FAULTS"
        assert shared[service] == shared["identity"], f"{service} numbers the frame's reasons its own way"


@pytest.mark.parametrize("service", SERVICES)
def test_each_own_reason_has_one_class_and_each_class_a_reason(service: str) -> None:
    assert not (faults := unpaired_reasons(reasons_of(service), own_faults(service))), report(faults)


def test_a_reason_without_its_class_is_found() -> None:
    class Gone(Fault):
        reason = "GONE"

    class Twice(Fault):
        reason = "GONE"

    class Shared(Fault):
        reason = "NOT_FOUND"

    reasons = {"NOT_FOUND": 6, "GONE": 100}
    assert not unpaired_reasons(reasons, [Gone])
    assert len(unpaired_reasons(reasons, [])) == 1
    assert len(unpaired_reasons(reasons, [Gone, Twice])) == 1
    assert len(unpaired_reasons(reasons, [Gone, Shared])) == 1
