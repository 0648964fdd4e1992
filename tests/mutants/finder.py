"""Finds what decides in a module: guards, sides of conditions, comparisons, calls that only have an effect, and SQL."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from tests.mutants import statements
from tests.mutants.mutant import Edit, Mutant

FLIPPED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
BOUNDS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
CLOCKS = {"monotonic", "time", "perf_counter"}
CHECK = re.compile(r"_?(?:require|validate|verify|admit|authorize)")
LITERAL = re.compile(r"""[rRfF]{0,2}("{3}|'{3}|"|')(.*)\1""", re.DOTALL)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def mutants(path: str, source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    found = sorted(_Finder(path, source).find(), key=lambda each: (each.edit.begin, each.edit.end))
    alike: Counter[str] = Counter()
    numbered = []
    for each in found:
        alike[each.key] += 1
        numbered.append(replace(each, number=alike[each.key]))
    return numbered


class _Finder:
    def __init__(self, path: str, source: str) -> None:
        self._path = path
        self._source = source
        self._tree = ast.parse(source, path)
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._lines = source.splitlines()
        self._tests = {id(node) for node in _tests(self._tree)}
        self._guards = {
            id(node.test) for node in ast.walk(self._tree) if isinstance(node, ast.If) and _leaves(node.body)
        }

    def find(self) -> Iterator[Mutant]:
        """All of them."""
        for node in self._tree.body:
            yield from self._visit(node, scope="")

    def _visit(self, node: ast.AST, scope: str) -> Iterator[Mutant]:
        if isinstance(node, Function | ast.ClassDef):
            inside = f"{scope}.{node.name}" if scope else node.name
            inner = f"{inside}.<locals>" if isinstance(node, Function) else inside
            for child in node.body:
                deeper = inner if isinstance(child, Function | ast.ClassDef) else inside
                yield from self._visit(child, deeper)
            return
        if isinstance(node, ast.Assign) and not scope:
            scope = node.targets[0].id if isinstance(node.targets[0], ast.Name) else ""
        elif isinstance(node, ast.AnnAssign) and not scope:
            scope = node.target.id if isinstance(node.target, ast.Name) else ""
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        yield from self._of(node, scope)
        if isinstance(node, ast.JoinedStr):
            return
        for child in ast.iter_child_nodes(node):
            nested = isinstance(child, Function | ast.ClassDef) and scope and not scope.endswith("<locals>")
            yield from self._visit(child, f"{scope}.<locals>" if nested else scope)

    def _of(self, node: ast.AST, scope: str) -> Iterator[Mutant]:
        if isinstance(node, ast.If) and _leaves(node.body):
            yield self._mutant(node.test, scope, self._edit(node.test, "False", "guard"))
        elif isinstance(node, ast.BoolOp):
            is_and = isinstance(node.op, ast.And)
            if is_and or id(node) in self._tests:
                for value in node.values:
                    yield self._mutant(value, scope, self._edit(value, "True" if is_and else "False", "side"))
        elif isinstance(node, ast.Compare) and (edit := self._flipped(node)):
            yield self._mutant(node, scope, edit)
        elif isinstance(node, ast.Expr) and _only_has_an_effect(node.value):
            yield self._mutant(node, scope, self._edit(node, "pass", "call"))
        elif isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            yield from self._of_sql(node, scope)

    def _flipped(self, node: ast.Compare) -> Edit | None:
        kind = type(node.ops[0])
        if len(node.ops) != 1 or kind not in FLIPPED:
            return None
        if kind in BOUNDS and any(_reads_clock(part) for part in ast.walk(node)):
            return None  # two readings of a clock are never equal
        if kind not in BOUNDS and id(node) in self._guards:
            return None  # the guard is taken away as a whole
        written, instead = FLIPPED[kind]
        begin, end = self._place(node.left)[1], self._place(node.comparators[0])[0]
        match = re.search(re.escape(written).replace(r"\ ", r"\s+"), self._source[begin:end])
        if match is None:
            return None
        return Edit(begin + match.start(), begin + match.end(), instead, "comparison")

    def _of_sql(self, node: ast.expr, scope: str) -> Iterator[Mutant]:
        begin, end = self._place(node)
        match = LITERAL.fullmatch(self._source[begin:end])
        # A literal of several pieces is left alone: the quotes between them would be read as SQL.
        if match is None or match[1] in match[2] or not statements.LOOKS_LIKE_SQL.search(match[2]):
            return
        start = begin + match.start(2)
        for edit in statements.edits(match[2]):
            moved = replace(edit, begin=start + edit.begin, end=start + edit.end)
            yield self._mutant(node, scope, moved)

    def _mutant(self, node: ast.expr | ast.stmt, scope: str, edit: Edit) -> Mutant:
        begin, end = (edit.begin, edit.end) if edit.kind != "comparison" else self._place(node)
        was = " ".join(self._source[begin:end].split())
        line = self._source.count("\n", 0, edit.begin) + 1
        return Mutant(self._path, line, scope, was, edit)

    def _edit(self, node: ast.expr | ast.stmt, instead: str, kind: str) -> Edit:
        return Edit(*self._place(node), instead, kind)

    def _place(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Where a node is in the text. Columns are counted in bytes of UTF-8."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())


def _tests(tree: ast.Module) -> Iterator[ast.expr]:
    """Expressions of which only the truth matters."""
    pending: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            pending.append(node.test)
        elif isinstance(node, ast.comprehension):
            pending += node.ifs
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            pending.append(node.operand)
        elif isinstance(node, Function) and isinstance(node.returns, ast.Name) and node.returns.id == "bool":
            pending += [each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("all", "any", "bool"):
            pending += [each.elt if isinstance(each, ast.GeneratorExp) else each for each in node.args]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.BoolOp):
            pending += node.values


def _leaves(body: list[ast.stmt]) -> bool:
    """Whether what comes after is not reached from here."""
    return isinstance(body[-1], ast.Raise | ast.Return | ast.Continue)


def _reads_clock(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS


def _only_has_an_effect(value: ast.expr) -> bool:
    """An awaited call whose answer nobody takes; or a check, which only raises."""
    if isinstance(value, ast.Await):
        return isinstance(value.value, ast.Call)
    if not isinstance(value, ast.Call):
        return False
    name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
    return CHECK.match(name) is not None
