"""What the rules read: the project's Python files, as text and as syntax trees."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("identity", "membership", "guest", "messaging")


@dataclass(frozen=True)
class Source:
    """One Python file; `path` is relative to the project."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text, self.path)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """What each imported name stands for, in full: `from a.b import c as d` gives d → a.b.c."""
        return {local: full for _, local, full in imports(self)}

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the path."""
        return PurePosixPath(self.path).parts

    @property
    def service(self) -> str:
        """The folder under services/ that it is in: a service, "chassis", or an empty string."""
        return self.parts[1] if self.parts[0] == "services" and len(self.parts) > 2 else ""

    @property
    def package(self) -> str:
        """The package that a relative import starts from."""
        return ".".join(self.parts[:-1])

    def fault(self, where: ast.AST | int, what: str) -> str:
        """A finding: where it is and what to do about it."""
        line = where if isinstance(where, int) else getattr(where, "lineno", 1)
        return f"{self.path}:{line}: {what}"


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    """Every Python file of the folders (or the files named), in order."""
    paths: list[Path] = []
    for folder in folders:
        path = ROOT / folder
        paths += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return tuple(Source(p.relative_to(ROOT).as_posix(), p.read_text()) for p in paths if "__pycache__" not in p.parts)


def service_sources() -> tuple[Source, ...]:
    """Every Python file under services/."""
    return sources("services")


def everything() -> tuple[Source, ...]:
    """All Python that is ours and written by hand."""
    return sources("services", "deploy", "tests", "build_protos.py")


def imports(source: Source) -> Iterator[tuple[ast.stmt, str, str]]:
    """Every import in the file, inside functions too: the statement, the local name, the full name."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node, name.asname or name.name.partition(".")[0], name.name
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                above = source.package.split(".")
                above = above[: len(above) - node.level + 1]
                start = ".".join([*above, start] if start else above)
            for name in node.names:
                yield node, name.asname or name.name, f"{start}.{name.name}"


def full_name(source: Source, node: ast.AST) -> str:
    """A dotted expression with its first name replaced by what was imported under it; empty if it is not one."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    first = source.aliases.get(node.id, node.id)
    if "." in first and first.partition(".")[0] == node.id:
        first = node.id  # `import a.b` binds a
    return ".".join([first, *reversed(parts)])


def docstrings(tree: ast.Module) -> set[int]:
    """The ids of the constants that are only comments: docstrings, and strings that document an attribute."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.add(id(node.value))
    return found


def strings(source: Source) -> Iterator[ast.Constant]:
    """Every string of the code, the parts of f-strings included, without docstrings."""
    comments = docstrings(source.tree)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in comments:
            yield node


def report(faults: list[str]) -> str:
    """The findings, for an assertion's message."""
    return "\n" + "\n".join(faults)
