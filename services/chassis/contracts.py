"""What the protos say of each RPC: who may call it, and the shape of its messages."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import guildhall
from google.protobuf import symbol_database
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from guildhall.options.v1 import access_pb2


@dataclass(frozen=True)
class Rpc:
    """One RPC."""

    name: str
    """As on the wire: "/guildhall.identity.v1.AuthService/SignIn"."""
    access: access_pb2.Access
    server_streaming: bool
    client_streaming: bool
    request: str
    response: str

    @property
    def service(self) -> str:
        """ "guildhall.identity.v1.AuthService"."""
        return self.name.split("/")[1]

    @property
    def method(self) -> str:
        """ "SignIn"."""
        return self.name.split("/")[2]

    @cached_property
    def needs_token(self) -> bool:
        """Whether only a signed-in user or a service account may call it."""
        return self.lets_in(access_pb2.CALLER_USER) or self.lets_in(access_pb2.CALLER_BACKEND)

    def lets_in(self, caller: access_pb2.Caller.ValueType) -> bool:
        """Whether this kind of caller is on the RPC's list."""
        return caller in self._callers

    @cached_property
    def _callers(self) -> frozenset[access_pb2.Caller.ValueType]:
        return frozenset(self.access.callers)


@cache
def files() -> tuple[FileDescriptor, ...]:
    """Every installed contract; importing them also puts them into the pool that reflection reads."""
    found = set()
    # Namespace packages have no __init__.py, so only the folders themselves tell what is in them.
    for folder in map(Path, guildhall.__path__):
        found |= {path.relative_to(folder.parent).with_suffix("") for path in folder.rglob("*_pb2.py")}
    return tuple(importlib.import_module(".".join(path.parts)).DESCRIPTOR for path in sorted(found))


def services() -> Iterator[ServiceDescriptor]:
    """Every service of the suite."""
    for file in files():
        yield from file.services_by_name.values()


@cache
def rpcs() -> dict[str, Rpc]:
    """Every RPC of the suite by its name on the wire."""
    return {rpc.name: rpc for service in services() for rpc in map(_rpc, service.methods)}


def request_class(rpc: Rpc) -> type:
    """The class of the RPC's requests."""
    return symbol_database.Default().GetSymbol(rpc.request)


def _rpc(method: MethodDescriptor) -> Rpc:
    return Rpc(
        name=f"/{method.containing_service.full_name}/{method.name}",
        access=method.GetOptions().Extensions[access_pb2.access],
        server_streaming=method.server_streaming,
        client_streaming=method.client_streaming,
        request=method.input_type.full_name,
        response=method.output_type.full_name,
    )
