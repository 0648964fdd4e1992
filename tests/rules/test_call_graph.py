"""Who asks whom: no call chain returns to a service that is already in it."""

import ast
from collections.abc import Mapping, Set

import pytest
from guildhall.options.v1 import access_pb2

from services.chassis import contracts
from tests.rules.servicers import asks, generated_name, handlers
from tests.rules.sources import SERVICES, Source, full_name, report, sources
from tests.rules.test_handlers import SINK, home, proto_files

ASKS: dict[str, set[str]] = {
    "identity": set(),
    "membership": {"identity", "guest"},
    "guest": {"identity", "membership", "messaging"},
    "messaging": {"identity", "membership", "guest"},
}
"""Who asks whom, besides that every service asks identity whether a session is alive."""

PEER_RPCS = {
    "identity.SessionService/CheckSessions": {"membership", "guest", "messaging"},
    "identity.UserService/BatchGetUsers": {"membership", "guest"},
    "membership.MemberService/AddGuestMember": {"guest"},
    "membership.MemberService/ConfirmGuestMember": {"guest"},
    "membership.MemberService/RemoveGuestMember": {"guest"},
    "membership.MemberService/ChangeMemberKind": {"guest"},
    "membership.MemberService/BatchGetMembers": {"guest", "messaging"},
    "membership.GroupMemberService/BatchListGroupMembers": {"messaging"},
    "membership.UserGroupService/ExpandHandles": {"messaging"},
    "membership.AccessService/BatchCheckAccess": {"guest", "messaging"},
    "membership.AccessService/GetAccessRevisions": {"guest", "messaging"},
    "membership.AccessService/BumpAccessRevision": {"guest", "messaging"},
    "guest.GuestAccessService/BatchCheckGuests": {"membership", "messaging"},
    "guest.GuestAccessService/ListGuestChannels": {"messaging"},
    "guest.GuestAccessService/FilterVisibleUsers": {"membership", "messaging"},
    "guest.GuestAccessService/ListVisibleUsers": {"membership", "messaging"},
    "messaging.ConversationService/BatchGetConversations": {"guest"},
    "messaging.ConversationService/ListCoParticipants": {"guest"},
}
"""Each PEER RPC and who may call it, but for EventSink, which everybody implements and calls."""

ASKING_LEAVES: dict[str, set[str]] = {
    "guest.GuestAccessService/FilterVisibleUsers": {"messaging.ConversationService/ListCoParticipants"},
    "guest.GuestAccessService/ListVisibleUsers": {"messaging.ConversationService/ListCoParticipants"},
}
"""PEER RPCs that ask one leaf."""


ASKED: dict[str, set[str]] = {
    "identity": set(),
    "membership": {
        "identity.UserService/BatchGetUsers",
        "guest.GuestAccessService/BatchCheckGuests",
        "guest.GuestAccessService/FilterVisibleUsers",
        "guest.GuestAccessService/ListVisibleUsers",
    },
    "guest": {
        "identity.UserService/BatchGetUsers",
        "membership.AccessService/BatchCheckAccess",
        "membership.MemberService/AddGuestMember",
        "membership.MemberService/ConfirmGuestMember",
        "membership.MemberService/RemoveGuestMember",
        "membership.MemberService/ChangeMemberKind",
        "membership.MemberService/BatchGetMembers",
        "membership.AccessService/BumpAccessRevision",
        "messaging.ConversationService/BatchGetConversations",
        "messaging.ConversationService/ListCoParticipants",
    },
    "messaging": {
        "membership.AccessService/BatchCheckAccess",
        "membership.AccessService/GetAccessRevisions",
        "membership.GroupMemberService/BatchListGroupMembers",
        "membership.MemberService/BatchGetMembers",
        "membership.UserGroupService/ExpandHandles",
        "guest.GuestAccessService/BatchCheckGuests",
        "guest.GuestAccessService/ListGuestChannels",
        "guest.GuestAccessService/FilterVisibleUsers",
        "guest.GuestAccessService/ListVisibleUsers",
    },
    "chassis": {"identity.SessionService/CheckSessions", "identity.AuthService/GetJwks"},
}
"""What the code of each really calls; the frame asks for every service."""

OFFERED_AHEAD: dict[str, str] = {}
"""PEER RPCs that are there before their first caller, and who will ask. An entry goes when it is asked."""


def short_name(rpc: contracts.Rpc) -> str:
    """ "identity.UserService/GetUser"."""
    _, service, _, name = rpc.service.split(".")
    return f"{service}.{name}/{rpc.method}"


def peer_rpcs() -> dict[str, contracts.Rpc]:
    """The PEER RPCs of the contracts, without EventSink."""
    found = (rpc for rpc in contracts.rpcs().values() if rpc.lets_in(access_pb2.CALLER_PEER))
    return {short_name(rpc): rpc for rpc in found if rpc.service != SINK}


def asked(source: Source) -> dict[str, list[str]]:
    """The RPCs of other services that a file's code calls, and where: by the stubs that it makes there."""
    made = {name for node in ast.walk(source.tree) if (name := _stub_of(source, node))}
    methods = {
        (stub, rpc.method): short_name(rpc)
        for rpc in contracts.rpcs().values()
        for stub in made
        if stub == generated_name(rpc, proto_files()).removesuffix("Servicer") + "Stub"
    }
    found: dict[str, list[str]] = {}
    for node in ast.walk(source.tree):
        for (_, method), name in methods.items():
            if isinstance(node, ast.Attribute) and node.attr == method:
                found.setdefault(name, []).append(source.fault(node, name))
    return found


def _stub_of(source: Source, node: ast.AST) -> str:
    """The generated stub class that is called here, if one is."""
    name = full_name(source, node.func) if isinstance(node, ast.Call) else ""
    return name if name.startswith("guildhall.") and name.endswith("Stub") else ""


def uninvited(service: str, source: Source) -> list[str]:
    """PEER RPCs that the code calls and whose list does not name the service; stubs of a service not to be asked."""
    found = []
    for name, places in asked(source).items():
        callers = PEER_RPCS.get(name)
        if callers is not None and service not in callers:
            found += [f"{place}: {service} is not on its list of callers" for place in places]
        if callers is None and name.partition(".")[0] not in ASKS[service]:
            found += [f"{place}: {service} never asks that service" for place in places]
    return found


def test_the_lists_of_callers_in_the_protos_are_the_written_table() -> None:
    assert {name: set(rpc.access.peers) for name, rpc in peer_rpcs().items()} == PEER_RPCS


def test_the_lists_of_callers_add_up_to_the_graph_of_the_architecture() -> None:
    graph = {
        caller: {name.partition(".")[0] for name, callers in PEER_RPCS.items() if caller in callers}
        for caller in SERVICES
    }

    assert graph == ASKS


def test_event_sink_takes_events_from_every_service_and_nobody_else() -> None:
    (rpc,) = (rpc for rpc in contracts.rpcs().values() if rpc.service == SINK)

    assert list(rpc.access.callers) == [access_pb2.CALLER_PEER]
    assert sorted(rpc.access.peers) == sorted(SERVICES)


def test_no_peer_rpc_lets_anybody_else_in_and_none_lists_its_own_service() -> None:
    for name, rpc in peer_rpcs().items():
        assert list(rpc.access.callers) == [access_pb2.CALLER_PEER], f"{name} is for peers and others: make two RPCs"
        assert name.partition(".")[0] not in rpc.access.peers, f"{name} lists its own service: call the function"


@pytest.mark.parametrize("service", SERVICES)
def test_services_ask_only_what_they_are_listed_for(service: str) -> None:
    code = [s for s in sources(f"services/{service}") if s.parts[-1] in ("peers.py", "__main__.py")]

    assert not (faults := [fault for source in code for fault in uninvited(service, source)]), report(faults)


@pytest.mark.parametrize("service", sorted(ASKED))
def test_the_code_asks_what_is_written_down_and_nothing_else(service: str) -> None:
    code = [s for s in sources(f"services/{service}") if s.parts[-1] in ("peers.py", "__main__.py")]

    assert {name for source in code for name in asked(source)} == ASKED[service]


def misfits(rpcs: Set[str], asked_rpcs: Set[str], ahead: Mapping[str, str]) -> list[str]:
    """PEER RPCs that nobody calls or will call, and entries of the table of those ahead that say nothing true."""
    return [
        *(f"{name}: a PEER RPC that nobody calls is dead" for name in sorted(rpcs - asked_rpcs - set(ahead))),
        *(f"{name}: it is asked by now, so it is no longer ahead" for name in sorted(asked_rpcs & set(ahead))),
        *(f"{name}: there is no such PEER RPC" for name in sorted(set(ahead) - rpcs)),
        *(f"{name}: say who will ask" for name, who in ahead.items() if not who),
    ]


def test_every_peer_rpc_is_asked_by_somebody_or_said_to_be_ahead() -> None:
    assert not (faults := misfits(set(PEER_RPCS), set().union(*ASKED.values()), OFFERED_AHEAD)), report(faults)


@pytest.mark.parametrize(
    ("asked_rpcs", "ahead", "count"),
    [
        ({"a", "b"}, {}, 0),
        ({"a"}, {"b": "guest"}, 0),
        ({"a"}, {}, 1),
        ({"a", "b"}, {"b": "guest"}, 1),
        ({"a", "b"}, {"c": "guest"}, 1),
        ({"a"}, {"b": ""}, 1),
    ],
)
def test_a_table_of_rpcs_ahead_that_has_rotted_is_found(
    asked_rpcs: set[str], ahead: dict[str, str], count: int
) -> None:
    assert len(misfits({"a", "b"}, asked_rpcs, ahead)) == count


@pytest.mark.parametrize("name", sorted(PEER_RPCS))
def test_handlers_of_peer_rpcs_ask_nobody(name: str) -> None:
    rpc = peer_rpcs()[name]
    code, _ = home(rpc)
    found = handlers(code, generated_name(rpc, proto_files()), rpc.method)

    assert found, f"{name} has no handler"
    if name not in ASKING_LEAVES:
        assert not (faults := [fault for handler in found for fault in asks(handler, code)]), report(faults)


def test_delivering_events_asks_nobody() -> None:
    (rpc,) = (rpc for rpc in contracts.rpcs().values() if rpc.service == SINK)
    code, _ = home(rpc)
    (handler,) = handlers(code, generated_name(rpc, proto_files()), rpc.method)

    assert not (faults := asks(handler, code)), report(faults)


def test_the_exceptions_are_rpcs_that_exist_and_ask_leaves() -> None:
    assert set(ASKING_LEAVES) <= set(PEER_RPCS)
    assert set().union(*ASKING_LEAVES.values()) <= set(PEER_RPCS) - set(ASKING_LEAVES)


HEAD = """
from guildhall.membership.v1 import access_service_pb2_grpc as rpc
from services.membership.peers import Peers
from services.membership.guests import Guests

class Access(rpc.AccessServiceServicer):
    def __init__(self, database, peers: Peers, guests: Guests, *, names: "Peers | None" = None) -> None:
        self._database = database
        self._peers = peers
        self._guests = guests
        self._questions = names

    async def BatchCheckAccess(self, request, context):
"""


@pytest.mark.parametrize(
    ("body", "bites"),
    [
        ("return await self._database.read(request)", False),
        ("return await self._peers.names(request)", True),
        ("return await self._questions.names(request)", True),
        ("return await self._guests.state(request)", True),
        (
            "return self._look(request)\n    async def _look(self, r):\n        return await self._peers.names(r)",
            True,
        ),
        ("return await look(self, request)\nasync def look(me, r):\n    return await me._peers.names(r)", True),
        ("return await ask(self._frame.channels['guest'])", True),
        ("return await Peers(1).names()", True),
        ("return 1\n    async def Other(self, r, c):\n        return await self._peers.names(r)", False),
    ],
)
def test_a_peer_handler_that_asks_is_found(body: str, bites: bool) -> None:
    code = (
        Source("services/membership/peers.py", "class Peers:\n    pass"),
        Source("services/membership/guests.py", "from .peers import Peers\nclass Guests:\n    peer: Peers"),
        Source("services/membership/servicer.py", HEAD + "        " + body),
    )
    rpc = contracts.rpcs()["/guildhall.membership.v1.AccessService/BatchCheckAccess"]
    (handler,) = handlers(code, generated_name(rpc, proto_files()), rpc.method)

    assert bool(asks(handler, code)) is bites


@pytest.mark.parametrize(
    ("service", "rpc", "count"),
    [
        ("guest", "AddGuestMember", 0),
        ("messaging", "AddGuestMember", 1),
        ("guest", "ListMembers", 0),
        ("identity", "ListMembers", 1),
    ],
)
def test_an_rpc_asked_without_leave_is_found(service: str, rpc: str, count: int) -> None:
    code = "from guildhall.membership.v1 import member_service_pb2_grpc as rpc\n"
    code += f"members = rpc.MemberServiceStub(channel)\nmembers.{rpc}(request)"

    assert len(uninvited(service, Source(f"services/{service}/peers.py", code))) == count
