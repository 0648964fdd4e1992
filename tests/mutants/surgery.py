"""Puts a mutant into the running code of this process, and takes it out again.

A function gets the mutant's code object. A constant is made anew, and so is whatever is put together from it. What
holds on to an old value beyond that (a default argument, a task that runs since the start) does not notice: what
survives here is therefore tried once more in a process that was started with the mutant.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tests.rules.sources import Source

PASSES = 3
"""So often are constants made anew that are put together from each other, in whatever order they are met."""


class NotPossible(Exception):
    """The mutant needs a process of its own."""


class Surgery:
    """What was changed, until it is healed."""

    def __init__(self, root: Path, sources: Iterable[Source]) -> None:
        self._root = root
        self._importers: dict[str, list[tuple[str, str]]] = {}
        for source in sources:
            for local, full in source.aliases.items():
                self._importers.setdefault(full, []).append((_dotted(source.path), local))
        self._undo: list[Callable[[], None]] = []

    def operate(self, path: str, scope: str, text: str, dependents: Iterable[tuple[str, str]]) -> None:
        """Makes the module with this text of the one that runs, as far as `scope` goes. Raises NotPossible."""
        module = sys.modules.get(_dotted(path))
        if module is None:
            raise NotPossible(f"{path} is not imported")
        if isinstance(vars(module).get(scope.partition(".")[0]), FunctionType | type):
            self._function(module, scope.partition(".<locals>")[0], text)
        else:
            self._constant(path, scope, text)
        again = list(dependents)
        for _ in range(PASSES if again else 0):
            for of_path, name in again:
                self._constant(of_path, name, (self._root / of_path).read_text())

    def heal(self) -> None:
        """Everything as it was."""
        while self._undo:
            self._undo.pop()()

    def _function(self, module: ModuleType, name: str, text: str) -> None:
        code = _find_code(compile(text, module.__file__ or "", "exec", dont_inherit=True), name)
        found: Any = module
        for part in name.split("."):
            found = vars(found).get(part)
        found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
        function = inspect.unwrap(found) if found is not None else None
        if code is None or not isinstance(function, FunctionType):
            raise NotPossible(f"{name} is no function that could be changed")
        before = function.__code__
        try:
            function.__code__ = code
        except ValueError as error:
            raise NotPossible(str(error)) from error
        self._undo.append(lambda: setattr(function, "__code__", before))

    def _constant(self, path: str, name: str, text: str) -> None:
        module = sys.modules.get(_dotted(path))
        if module is None:
            return
        for node in ast.parse(text).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(target, ast.Name) and target.id == name:
                made = dict(vars(module))
                exec(compile(ast.Module([node], []), module.__file__ or "", "exec"), made)
                self._set(module.__name__, name, made[name])
                for importer, local in self._importers.get(f"{module.__name__}.{name}", ()):
                    self._set(importer, local, made[name])
                return
        raise NotPossible(f"{name} is no constant of {path}")

    def _set(self, of_module: str, name: str, value: object) -> None:
        module = sys.modules.get(of_module)
        if module is not None and name in vars(module):
            before = vars(module)[name]
            setattr(module, name, value)
            self._undo.append(lambda: setattr(module, name, before))


def _dotted(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def _find_code(code: CodeType, name: str) -> CodeType | None:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_qualname == name:
                return constant
            if (found := _find_code(constant, name)) is not None:
                return found
    return None
