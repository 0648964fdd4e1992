"""Budgets: how long files and functions may be, what modules may not be called, and what is explained."""

import ast
from collections.abc import Iterator

import pytest

from tests.rules.sources import Source, everything, report, service_sources, sources

FILE_LINES = 400
FUNCTION_LINES = 60
FRAME_LINES = 3360
"""The frame's lines that are not empty; 2 000 were meant to be enough.

A tenth of them measures and traces; a hundred are for channels that follow a change of certificates: gRPC has none that
do. Forty are for the outbox: a loop for each target, and batches cut by bytes. A dozen say what each setting is for:
docs/configuration.md is made of them. Twenty look for a stored answer before something is spent on a new one. Fifty
forget in batches, each kind of row by itself, what one statement could not after a long pause. Ten answer
whether the event loop does: a probe that the metrics' own thread answers sees no worker that hangs."""
EXPLAINED_FROM = 5
BANNED = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "base", "impl"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def long_files(source: Source) -> list[str]:
    """A file that is over its budget."""
    count = len(source.text.splitlines())
    over = f"{count} lines; at most {FILE_LINES}: split it by what its parts are about"
    return [source.fault(count, over)] if count > FILE_LINES else []


def long_functions(source: Source) -> list[str]:
    """Functions that are over their budget."""
    return [
        source.fault(node, f"{node.name} has {lines} lines; at most {FUNCTION_LINES}: give its parts names")
        for node in ast.walk(source.tree)
        if isinstance(node, Function)
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    ]


def empty_names(source: Source) -> list[str]:
    """Modules and packages whose name says nothing."""
    words = {word for part in source.parts for word in part.removesuffix(".py").lower().split("_")}
    return [source.fault(1, f"{word!r} says nothing: name it after what is in it") for word in sorted(words & BANNED)]


def unexplained_modules(source: Source) -> list[str]:
    """A module without a docstring, unless it is empty."""
    unexplained = source.tree.body and not ast.get_docstring(source.tree)
    return [source.fault(1, "the module has no docstring: what is it for?")] if unexplained else []


def unexplained_classes(source: Source) -> list[str]:
    """Public classes without a docstring. A Fault's own text explains it; so does an event table's comment."""
    return [
        source.fault(node, f"class {node.name} has no docstring: what does one of it stand for?")
        for node in _public(source.tree)
        if isinstance(node, ast.ClassDef) and not ast.get_docstring(node) and not _has_text(node)
    ]


def unexplained_functions(source: Source) -> list[str]:
    """Public functions and methods of more than a few lines without a docstring."""
    return [
        source.fault(node, f"{node.name} has no docstring: what does it do, and what can its types not say?")
        for node in _public(source.tree)
        if isinstance(node, Function) and not ast.get_docstring(node)
        if (node.end_lineno or 0) - node.body[0].lineno + 1 > EXPLAINED_FROM
    ]


def _public(scope: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | Function]:
    """The public classes and functions of a module, and the methods of its public classes."""
    for node in scope.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node)


def _has_text(node: ast.ClassDef) -> bool:
    targets = {name.id for statement in node.body for name in ast.walk(statement) if isinstance(name, ast.Name)}
    return {"reason", "text"} <= targets


def over(rule: object, among: tuple[Source, ...]) -> list[str]:
    """What a rule finds in some files."""
    assert callable(rule)
    return [fault for source in among for fault in rule(source)]


@pytest.mark.parametrize("rule", [long_files, long_functions, empty_names, unexplained_modules])
def test_files_and_functions_stay_small_and_are_named_for_what_they_are(rule: object) -> None:
    assert not (faults := over(rule, everything())), report(faults)


def test_every_public_class_says_what_it_is() -> None:
    among = (*service_sources(), *sources("deploy", "build_protos.py"))

    assert not (faults := over(unexplained_classes, among)), report(faults)


def test_every_public_function_of_the_frame_that_is_not_obvious_says_what_it_does() -> None:
    assert not (faults := over(unexplained_functions, sources("services/chassis"))), report(faults)


def test_the_frame_stays_small_enough_to_be_read_in_an_hour() -> None:
    lines = {
        source.path: sum(1 for line in source.text.splitlines() if line.strip())
        for source in sources("services/chassis")
    }
    total = sum(lines.values())
    print(f"services/chassis: {total} of {FRAME_LINES} lines")

    largest = ", ".join(f"{path} {count}" for path, count in sorted(lines.items(), key=lambda item: -item[1])[:5])
    assert total <= FRAME_LINES, f"the frame has {total} lines; at most {FRAME_LINES}. The largest: {largest}"


@pytest.mark.parametrize(
    ("rule", "path", "code"),
    [
        (long_files, "services/guest/guests.py", "x = 1\n" * (FILE_LINES + 1)),
        (long_functions, "tests/unit/test_x.py", "def f():\n" + "    x = 1\n" * FUNCTION_LINES),
        (long_functions, "deploy/x.py", "class A:\n    async def f():\n" + "        x = 1\n" * FUNCTION_LINES),
        (empty_names, "services/guest/utils.py", ""),
        (empty_names, "services/guest/guest_helpers.py", ""),
        (empty_names, "services/common/guests.py", ""),
        (unexplained_modules, "services/guest/guests.py", "x = 1"),
        (unexplained_classes, "services/guest/guests.py", "class Guest:\n    x = 1"),
        (unexplained_functions, "services/chassis/x.py", "def f():\n" + "    x = 1\n" * (EXPLAINED_FROM + 1)),
        (unexplained_functions, "services/chassis/x.py", "class A:\n    def f():\n" + "        x = 1\n" * 6),
    ],
)
def test_what_is_over_a_budget_is_found(rule: object, path: str, code: str) -> None:
    assert len(over(rule, (Source(path, code),))) == 1


@pytest.mark.parametrize(
    ("rule", "path", "code"),
    [
        (long_files, "services/guest/guests.py", "x = 1\n" * FILE_LINES),
        (long_functions, "deploy/x.py", "def f():\n" + "    x = 1\n" * (FUNCTION_LINES - 1)),
        (empty_names, "services/chassis/database.py", ""),
        (unexplained_modules, "tests/__init__.py", ""),
        (unexplained_classes, "services/guest/errors.py", "class Gone(Fault):\n    reason, text = 'GONE', 'It ended.'"),
        (unexplained_classes, "services/guest/guests.py", "class _Row:\n    x = 1"),
        (unexplained_functions, "services/chassis/x.py", "def f():\n" + "    x = 1\n" * EXPLAINED_FROM),
    ],
)
def test_what_is_within_a_budget_is_left_alone(rule: object, path: str, code: str) -> None:
    assert not over(rule, (Source(path, code),))
