"""Who may import whom."""

import pytest

from tests.rules.sources import ROOT, SERVICES, Source, imports, report, service_sources, strings

SINK = "guildhall.events.v1.event_sink_pb2_grpc"
CHASSIS_STUBS = {"peers.py": "guildhall.identity.", "inbox.py": SINK, "outbox.py": SINK, "frame.py": SINK}
"""Which of the frame's files may have which stubs."""


def foreign_imports(source: Source) -> list[str]:
    """Imports of another service, of a service by the frame, or of deploy and tests by either."""
    found = []
    for node, _, name in imports(source):
        top, _, rest = name.partition(".")
        if top in ("deploy", "tests"):
            found.append(
                source.fault(node, f"services import nothing from {top}; move what is shared into the chassis")
            )
        owner = rest.partition(".")[0]
        if top == "services" and owner in SERVICES and owner != source.service:
            found.append(source.fault(node, f"{owner} is another service: ask it by RPC, in peers.py"))
    for constant in strings(source):
        for other in SERVICES:
            if other != source.service and str(constant.value).startswith(f"services.{other}."):
                found.append(source.fault(constant, f"names a module of {other}: services know of each other by RPC"))
    return found


def misplaced_stubs(source: Source) -> list[str]:
    """Generated gRPC code outside the few files where a reader looks for it."""
    return [
        source.fault(node, f"{module} does not belong here: {where}")
        for node, _, name in imports(source)
        if name.startswith("guildhall.") and "_pb2_grpc" in name
        if (where := _place_of(source, module := name[: name.index("_pb2_grpc") + len("_pb2_grpc")]))
    ]


def _place_of(source: Source, module: str) -> str:
    """Where the module belongs, if not into this file."""
    file = source.parts[-1]
    if source.service == "chassis":
        allowed = module.startswith(CHASSIS_STUBS.get(file, "nothing"))
        return "" if allowed else "the frame's stubs are made in peers.py, the EventSink's in inbox, outbox and frame"
    if module == SINK:
        return "the frame implements and calls EventSink for every service"
    if not source.service:
        return "only services have stubs"
    if module.split(".")[1] == source.service:
        inside = file in ("servicer.py", "__main__.py") or "servicers" in source.parts[2:-1]
        return "" if inside else "a service's own generated code is for servicer.py, servicers/ and __main__.py"
    inside = file in ("peers.py", "__main__.py") and len(source.parts) == 3
    return "" if inside else "stubs of other services are made in peers.py (or __main__.py)"


def test_all_four_services_and_nothing_else_stand_beside_the_frame() -> None:
    folders = {path.name for path in (ROOT / "services").iterdir() if path.is_dir() and path.name != "__pycache__"}

    assert folders == {*SERVICES, "chassis"}
    for service in SERVICES:
        missing = [
            name
            for name in ("__init__.py", "__main__.py", "tables.py", "errors.py", "migrations/env.py")
            if not (ROOT / "services" / service / name).is_file()
        ]
        assert not missing, f"services/{service} has no {', '.join(missing)}"


def test_services_import_neither_each_other_nor_what_deploys_or_tests_them() -> None:
    faults = [fault for source in service_sources() for fault in foreign_imports(source)]

    assert not faults, report(faults)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("services/guest/guests.py", "from services.membership.members import find_member"),
        ("services/guest/guests.py", "import services.membership.members as members"),
        ("services/guest/guests.py", "from services import membership"),
        ("services/guest/guests.py", "from ..membership import members"),
        ("services/guest/servicers/access.py", "def f():\n    from ...identity import users"),
        ("services/guest/guests.py", "importlib.import_module('services.identity.users')"),
        ("services/chassis/frame.py", "from services.identity import users"),
        ("services/beat.py", "from services.identity import users"),
        ("services/guest/guests.py", "from deploy.stack import settings"),
        ("services/chassis/frame.py", "import tests.support"),
    ],
)
def test_a_forbidden_import_is_found(path: str, code: str) -> None:
    assert len(foreign_imports(Source(path, code))) == 1


@pytest.mark.parametrize(
    "code", ["from services.guest import tables", "from . import tables", "from services.chassis import pages"]
)
def test_a_services_own_modules_and_the_frames_may_be_imported(code: str) -> None:
    assert not foreign_imports(Source("services/guest/guests.py", code))


def test_stubs_are_only_where_a_reader_looks_for_them() -> None:
    faults = [fault for source in service_sources() for fault in misplaced_stubs(source)]

    assert not faults, report(faults)


@pytest.mark.parametrize(
    ("path", "code", "count"),
    [
        ("services/guest/guests.py", "from guildhall.membership.v1 import member_service_pb2_grpc", 1),
        ("services/guest/servicer.py", "from guildhall.membership.v1 import member_service_pb2_grpc as rpc", 1),
        ("services/guest/peers.py", "from guildhall.membership.v1 import member_service_pb2_grpc", 0),
        (
            "services/guest/__main__.py",
            "from guildhall.membership.v1.member_service_pb2_grpc import MemberServiceStub",
            0,
        ),
        ("services/guest/guests.py", "import guildhall.guest.v1.guest_service_pb2_grpc", 1),
        ("services/guest/peers.py", "from guildhall.guest.v1 import guest_service_pb2_grpc", 1),
        ("services/guest/servicers/guests.py", "from guildhall.guest.v1 import guest_service_pb2_grpc", 0),
        ("services/guest/servicer.py", "from guildhall.guest.v1 import guest_service_pb2_grpc", 0),
        ("services/guest/servicer.py", "from guildhall.events.v1 import event_sink_pb2_grpc", 1),
        ("services/chassis/sessions.py", "from guildhall.identity.v1 import session_service_pb2_grpc", 1),
        ("services/chassis/peers.py", "from guildhall.membership.v1 import access_service_pb2_grpc", 1),
        ("services/chassis/inbox.py", "from guildhall.events.v1 import event_sink_pb2_grpc as rpc", 0),
        ("services/beat.py", "from guildhall.events.v1 import event_sink_pb2_grpc as rpc", 1),
        ("services/guest/guests.py", "from guildhall.membership.v1 import member_service_pb2", 0),
    ],
)
def test_a_misplaced_stub_is_found(path: str, code: str, count: int) -> None:
    assert len(misplaced_stubs(Source(path, code))) == count
