"""The servers that stay up from one mutant to the next, the tree that the children run, and the child that stays."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.stack.suite import Suite
from tests.mutants import children
from tests.mutants.tree import Tree
from tests.support.backends import SHARED, Processes, running_backends, share


class Bench:
    """Real backends, kept warm, and one child at a time that runs tests on them."""

    def __init__(self, folder: Path, stack: Suite, processes: Processes, tell: Callable[[str], None]) -> None:
        self.tree = Tree(folder / "tree")
        self.tell = tell
        self.log = folder / "child.log"
        self._stack = stack
        self._processes = processes
        self._told = folder / "backends.json"
        self._files: Sequence[str] = ()
        self._lasting: children.Lasting | None = None

    def take_up(self, files: Sequence[str]) -> None:
        """From now on the child that stays is for the tests of these files."""
        self.rest()
        self._files = files

    def rest(self) -> None:
        """Ends the child that stays; another one is started when it is needed."""
        if self._lasting is not None:
            self._lasting.end()
            self._lasting = None

    @property
    def lasting(self) -> children.Lasting:
        """The child that stays."""
        if self._lasting is None:
            environment = self._environment()
            self._lasting = children.Lasting(self.tree.folder, self._files, environment=environment, log=self.log)
        return self._lasting

    def ask(self, tests: Sequence[str], *, seconds: float, **more: Any) -> Mapping[str, Any] | None:
        """What the child that stays says of tests; None if there was no answer, and then it has been ended."""
        answer = self.lasting.ask(tests, seconds=seconds, **more)
        if answer is None:
            self.rest()
        return answer

    def run(self, tests: Sequence[str], *, seconds: float) -> children.Outcome:
        """Runs tests of the tree as it is now in a child of their own."""
        self.rest()  # its services are where those of the other would be
        environment = self._environment()
        return children.run(self.tree.folder, tests, environment=environment, seconds=seconds, log=self.log)

    def _environment(self) -> Mapping[str, str]:
        self._processes.revive()
        share(self._stack, self._processes, self._told)
        return {SHARED: str(self._told)}

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
        bench = Bench(folder, stack, processes, tell)
        try:
            yield bench
        finally:
            bench.rest()
