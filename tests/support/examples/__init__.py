"""For each RPC of the suite an example: a request that somebody is allowed to make, about things that are there.

What tests of all RPCs start from: the access matrix, the fuzzing, the field masks.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from services.chassis import contracts
from tests.support.examples.cast import Caller
from tests.support.examples.world import House
from tests.support.reflected import Metadata

Fields = Callable[[House, Caller], dict[str, Any] | Awaitable[dict[str, Any]]]

FORWARDED = "forwarded"
"""Beside an example's fields: the person whose token a peer forwards with them."""


@dataclass(frozen=True)
class Example:
    """One RPC's. `fields` makes what is used up by the call anew each time."""

    fields: Fields
    spends_caller: bool = False
    """Whether who makes the call is somebody else afterwards: signed out, gone, of another role."""
    personal: bool = False
    """Whether it is about the caller, so that each makes a request of their own. It uses nothing of others up."""
    peer: str = ""
    """The service that calls, where not any of the RPC's list may."""
    wrong_peer: str = ""
    """One of the list that may not all the same."""

    async def build(self, rpc: contracts.Rpc, house: House, caller: Caller) -> tuple[Message, Metadata]:
        """The request, and what a peer forwards with it."""
        made = self.fields(house, caller)
        fields = await made if inspect.isawaitable(made) else made
        forwarded = fields.pop(FORWARDED, None)
        return contracts.request_class(rpc)(**fields), forwarded.metadata if forwarded else ()


def rpc_of(name: str) -> contracts.Rpc:
    """The RPC of an example's name: "membership.GroupService/GetGroup", "identity.UserService/DeleteUser (own)"."""
    package, method = re.split("[ @]", name)[0].split(".")
    return contracts.rpcs()[f"/guildhall.{package}.v1.{method}"]


def service_of(name: str) -> str:
    """Which service answers: the RPC's own, or what stands behind the @."""
    return name.rpartition("@")[2] if "@" in name else name.split(".")[0]


def all_examples() -> Mapping[str, Example]:
    """By their names, in the order of the contracts but for what ends the workspace, which comes last."""
    from tests.support.examples import events, groups, guest, identity, membership, messaging

    modules = (identity, membership, groups, guest, messaging, events)
    found: dict[str, Example] = {name: each for module in modules for name, each in module.EXAMPLES.items()}
    last = "membership.WorkspaceService/DeleteWorkspace"
    return {**{name: each for name, each in found.items() if name != last}, last: found[last]}


def missing() -> list[str]:
    """RPCs without an example."""
    there = {(rpc_of(name).name, service_of(name)) for name in all_examples()}
    services = ("identity", "membership", "guest", "messaging")
    wanted = set()
    for rpc in contracts.rpcs().values():
        package = rpc.service.split(".")[1]
        wanted |= {(rpc.name, service) for service in ([package] if package in services else services)}
    return sorted(f"{name} of {service}" for name, service in wanted - there)
