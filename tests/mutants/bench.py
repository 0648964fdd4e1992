"""The servers that stay up from one mutant to the next, and the tree that the children run."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from deploy.stack.suite import Suite
from tests.mutants import children
from tests.mutants.tree import Tree
from tests.support.backends import SHARED, Processes, running_backends, share


class Bench:
    """Real backends, kept warm, and one child at a time that runs tests on them."""

    def __init__(self, folder: Path, stack: Suite, processes: Processes, tell: Callable[[str], None]) -> None:
        self.folder = folder
        self.tree = Tree(folder / "tree")
        self.tell = tell
        self.log = folder / "child.log"
        self._stack = stack
        self._processes = processes
        self._told = folder / "backends.json"

    def run(self, tests: Sequence[str], *, seconds: float, record: Path | None = None) -> children.Outcome:
        """Runs tests of the tree as it is now; of workers too if their tests have stopped them before."""
        self._processes.revive()
        share(self._stack, self._processes, self._told)
        environment = {SHARED: str(self._told)}
        return children.run(
            self.tree.folder, tests, environment=environment, seconds=seconds, log=self.log, record=record
        )

    @contextlib.contextmanager
    def worker_of_tree(self, service: str) -> Iterator[None]:
        """A service's worker runs the tree's code, for a time."""
        (program,) = self._processes.stop(suffix=f"{service}-worker")
        # Before the folder that it is started in, which is this project's own.
        paths = f"{self.tree.folder}:{self.tree.folder / 'generated'}"
        environment = {**program.environment, "PYTHONSAFEPATH": "1", "PYTHONPATH": paths}
        self._processes.start(replace(program, environment=environment))
        try:
            yield
        finally:
            self._processes.stop(suffix=f"{service}-worker")
            self._processes.start(program)


@contextlib.contextmanager
def running_bench(folder: Path, tell: Callable[[str], None]) -> Iterator[Bench]:
    """A bench with backends of its own, which end with it."""
    processes = Processes()
    with running_backends(processes) as stack:
        yield Bench(folder, stack, processes, tell)
