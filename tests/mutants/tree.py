"""A copy of the project in which one file at a time is another, so that the one being worked on stays as it is."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.rules.sources import ROOT

COPIED = ("services", "deploy", "tests", "clients", "protos", "docs", "build_protos.py", "pyproject.toml", "README.md")
LINKED = ("generated",)
LEFT_OUT = shutil.ignore_patterns("__pycache__", "node_modules", ".hypothesis", "dist")


class Tree:
    """The copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
            elif (ROOT / name).exists():
                shutil.copy(ROOT / name, folder / name)
        for name in LINKED:
            if (ROOT / name).exists():
                (folder / name).symlink_to(ROOT / name)

    @contextlib.contextmanager
    def with_mutant(self, mutant: Mutant) -> Iterator[None]:
        """The tree with a mutant in it, for a time."""
        file = self.folder / mutant.path
        source = file.read_text()
        try:
            self._write(file, mutant.applied(source))
            yield
        finally:
            self._write(file, source)

    def _write(self, file: Path, text: str) -> None:
        file.write_text(text)
        # Compiled code is told from its source by size and second only: two mutants may have both in common.
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
            compiled.unlink()
