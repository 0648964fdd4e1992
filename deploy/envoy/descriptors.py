"""What the contracts say about every RPC that the gateway may route, read from the installed generated modules."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import guildhall
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from guildhall.options.v1 import access_pb2


@dataclass(frozen=True)
class PublicRpc:
    """An RPC open to the outside: `path` is `/package.Service/Method`, `upstream` the service that owns it."""

    path: str
    upstream: str
    needs_token: bool
    streaming: bool
    has_json: bool

    @property
    def service(self) -> str:
        """The full name of the proto service."""
        return self.path.split("/")[1]


def public_rpcs() -> list[PublicRpc]:
    """Every RPC of every contract that is not for peers alone, sorted by path.

    An RPC without an access option raises: forgetting it must not open a door.
    """
    return sorted(map(_public_rpc, public_methods()), key=lambda rpc: rpc.path)


def public_methods() -> list[MethodDescriptor]:
    """The descriptors of the same RPCs."""
    return [method for method in _methods() if not _is_for_peers(method)]


def peer_paths() -> list[str]:
    """The paths of the RPCs that only services call, by their certificates; none of them is ever routed."""
    return sorted(_path(method) for method in _methods() if _is_for_peers(method))


def write_descriptor_set(path: str | Path) -> None:
    """Write the FileDescriptorSet that the JSON transcoder reads: all contracts, and the types of error details.

    Without the error details the transcoder answers a JSON caller's error with its code alone.
    """
    found: dict[str, FileDescriptor] = {}
    for module in (*_modules(), error_details_pb2, status_pb2):
        _collect(module.DESCRIPTOR, found)
    files = descriptor_pb2.FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(files.file.add())
    Path(path).write_bytes(files.SerializeToString(deterministic=True))


def _collect(file: FileDescriptor, found: dict[str, FileDescriptor]) -> None:
    """Add a file after everything it imports: Envoy builds them in this order."""
    if file.name not in found:
        for imported in file.dependencies:
            _collect(imported, found)
        found[file.name] = file


def _modules() -> Iterator[ModuleType]:
    """The generated module of each contract. `guildhall` is a namespace package, which pkgutil does not walk."""
    for folder in map(Path, guildhall.__path__):
        for path in sorted(folder.rglob("*_pb2.py")):
            yield importlib.import_module(".".join(("guildhall", *path.relative_to(folder).with_suffix("").parts)))


def _methods() -> Iterator[MethodDescriptor]:
    for module in _modules():
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _callers(method: MethodDescriptor) -> set[int]:
    callers: set[int] = set(method.GetOptions().Extensions[access_pb2.access].callers)
    if not callers or access_pb2.CALLER_UNSPECIFIED in callers:
        raise ValueError(f"{_path(method)} does not say who may call it")
    return callers


def _is_for_peers(method: MethodDescriptor) -> bool:
    return access_pb2.CALLER_PEER in _callers(method)


def _public_rpc(method: MethodDescriptor) -> PublicRpc:
    return PublicRpc(
        path=_path(method),
        upstream=method.containing_service.full_name.split(".")[1],
        needs_token=access_pb2.CALLER_OPEN not in _callers(method),
        streaming=method.client_streaming or method.server_streaming,
        has_json=method.GetOptions().HasExtension(annotations_pb2.http),
    )
