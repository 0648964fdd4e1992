"""Which functions run a piece of code: SQL is in constants, and constants are put together from others."""

import ast
from collections import defaultdict
from collections.abc import Iterator

from tests.rules.sources import Source, full_name, service_sources

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Callers:
    """What uses what, in the services' code."""

    def __init__(self, among: tuple[Source, ...] | None = None) -> None:
        self._sources = service_sources() if among is None else among
        self._defined: dict[str, str] = {}
        self._functions: set[str] = set()
        self._classes: set[str] = set()
        self._used_by: dict[str, set[str]] = defaultdict(set)
        for source in self._sources:
            for name, node in _definitions(source.tree):
                self._defined[f"{_dotted(source)}.{name}"] = f"{source.path}:{name}"
                if isinstance(node, Function):
                    self._functions.add(f"{source.path}:{name}")
                elif isinstance(node, ast.ClassDef):
                    self._classes.add(f"{source.path}:{name}")
        for source in self._sources:
            for name, node in _definitions(source.tree):
                self._note(source, f"{source.path}:{name}", node)

    def _note(self, source: Source, user: str, node: ast.AST) -> None:
        for part in ast.walk(node):
            if isinstance(part, ast.Name | ast.Attribute) and (used := self._find(source, part)) and used != user:
                self._used_by[used].add(user)

    def _find(self, source: Source, node: ast.AST) -> str | None:
        name = full_name(source, node)
        return self._defined.get(name) or self._defined.get(f"{_dotted(source)}.{name}")

    def running(self, path: str, scope: str) -> frozenset[str]:
        """The functions, as "path:name", that run what is in a function or a constant."""
        return frozenset(node for node in self._affected(path, scope) if self._is_function(node))

    def constants(self, path: str, scope: str) -> list[tuple[str, str]]:
        """The constants, as path and name, that are made with a function or a constant."""
        itself = f"{path}:{scope}"
        found = sorted(node for node in self._affected(path, scope) if not self._is_function(node) and node != itself)
        return [(node.partition(":")[0], node.partition(":")[2]) for node in found if node not in self._classes]

    def _affected(self, path: str, scope: str) -> set[str]:
        pending, seen = [f"{path}:{scope}"], set[str]()
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            if self._is_function(node):
                # A function that a constant is made with runs when it is imported.
                pending += [user for user in self._used_by[node] if not self._is_function(user)]
            else:
                pending += self._used_by[node]
        return seen

    def is_function(self, path: str, scope: str) -> bool:
        """Whether it is a function, and no constant."""
        return self._is_function(f"{path}:{scope}")

    def _is_function(self, node: str) -> bool:
        return node in self._functions or "<locals>" in node


def _dotted(source: Source) -> str:
    return source.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Module-level constants, functions, classes and their methods, with the names that code objects have for them."""
    for node in tree.body:
        if isinstance(node, Function):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield node.name, node
            yield from ((f"{node.name}.{each.name}", each) for each in node.body if isinstance(each, Function))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value
