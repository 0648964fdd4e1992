"""What the rules read in servicers: which class answers an RPC, which class can ask another service."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from services.chassis.contracts import Rpc
from tests.rules.sources import Source, full_name

Function = ast.FunctionDef | ast.AsyncFunctionDef

ASKING_NAMES = {"peers", "stub", "stubs", "channel", "channels"}
"""Attributes and names by which other services are reached, with or without an underscore."""


@dataclass(frozen=True)
class Handler:
    """The method that answers an RPC."""

    source: Source
    owner: ast.ClassDef
    method: Function


def generated_name(rpc: Rpc, files: dict[str, str]) -> str:
    """The generated servicer class of an RPC's service; `files` gives each service's proto file."""
    module = files[rpc.service].removesuffix(".proto").replace("/", ".")
    return f"{module}_pb2_grpc.{rpc.service.rpartition('.')[2]}Servicer"


def classes(sources: tuple[Source, ...]) -> Iterator[tuple[Source, ast.ClassDef]]:
    """Every class, with its file."""
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                yield source, node


def handlers(sources: tuple[Source, ...], generated: str, method: str) -> list[Handler]:
    """Methods of that name in the bodies of classes that derive from the generated one."""
    return [
        Handler(source, node, function)
        for source, node in classes(sources)
        if generated in {full_name(source, base) for base in node.bases}
        for function in node.body
        if isinstance(function, Function) and function.name == method
    ]


def registers(sources: tuple[Source, ...], generated: str) -> bool:
    """Whether the generated function that registers the servicer is used."""
    module, _, name = generated.rpartition(".")
    wanted = f"{module}.add_{name}_to_server"
    return any(
        full_name(source, node) == wanted
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute | ast.Name)
    )


def asking_classes(sources: tuple[Source, ...]) -> set[str]:
    """Full names of a service's classes that can ask another service: those of peers.py, and all that hold one."""
    asking = {_name(source, node) for source, node in classes(sources) if source.parts[-1] == "peers.py"}
    while True:
        more = {_name(source, node) for source, node in classes(sources) if _holds(source, node, asking)} - asking
        if not more:
            return asking
        asking |= more


def asks(handler: Handler, sources: tuple[Source, ...]) -> list[str]:
    """Where a handler, or what it calls in its own class and module, reaches for another service."""
    source, asking = handler.source, asking_classes(sources)
    held = _held(source, handler.owner, asking)
    found: list[str] = []
    seen: set[str] = set()
    waiting: list[Function] = [handler.method]
    while waiting:
        function = waiting.pop()
        if function.name in seen:
            continue
        seen.add(function.name)
        for node in ast.walk(function):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            on_self = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
            full = full_name(source, node) if name else ""
            if name.lstrip("_") in ASKING_NAMES or (on_self and name in held) or ".peers." in f"{full}.":
                what = f"{handler.method.name} is a PEER RPC, a leaf: it asks nobody, but reaches for {name!r}"
                found.append(source.fault(node, what))
            waiting += _functions(handler.owner, name) if on_self else _functions(source.tree, name)
    return sorted(set(found))


def _functions(scope: ast.ClassDef | ast.Module, name: str) -> list[Function]:
    return [node for node in scope.body if isinstance(node, Function) and node.name == name]


def _name(source: Source, node: ast.ClassDef) -> str:
    return ".".join([*source.parts[:-1], source.parts[-1].removesuffix(".py"), node.name])


def _named_in(source: Source, annotation: ast.expr | None) -> set[str]:
    """The full names in an annotation; quoted ones too."""
    if annotation is None:
        return set()
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    own = ".".join([*source.parts[:-1], source.parts[-1].removesuffix(".py")])
    names = {full_name(source, node) for node in ast.walk(annotation)} - {""}
    return names | {f"{own}.{name}" for name in names if "." not in name}


def _held(source: Source, node: ast.ClassDef, asking: set[str]) -> set[str]:
    """The attributes of a class in which it keeps something that can ask another service."""
    held = {
        statement.target.id
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        if _named_in(source, statement.annotation) & asking
    }
    for init in _functions(node, "__init__"):
        arguments = [*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs]
        given = {argument.arg for argument in arguments if _named_in(source, argument.annotation) & asking}
        for statement in ast.walk(init):
            if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                value = {item.id for item in ast.walk(statement.value) if isinstance(item, ast.Name)}
                made = _named_in(source, statement.value) & asking
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                if value & given or made:
                    held |= {target.attr for target in targets if isinstance(target, ast.Attribute)}
    return held


def _holds(source: Source, node: ast.ClassDef, asking: set[str]) -> bool:
    return bool(_held(source, node, asking))
