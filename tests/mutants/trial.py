"""Trying a module's mutants, one after the other: each is killed by a test, or survives."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.mutants import finder, reach
from tests.mutants.bench import Bench
from tests.mutants.callers import Callers
from tests.mutants.equivalents import EQUIVALENT
from tests.mutants.modules import GUARDED_BY
from tests.mutants.mutant import Mutant
from tests.mutants.reach import Test

MOST_WORK = 10
"""Seconds of the processor that a mutant's tests take together: the rest of those that enter it is not run."""
SLOW = 1.5
ATTEMPTS = 2
HAS_WORKER = {"identity", "membership", "guest", "messaging"}


@dataclass
class Verdict:
    """What became of one mutant."""

    mutant: Mutant
    by: str
    """The test that killed it; "(time)" if it never ended; empty if it survived."""
    tests: Sequence[Test] = ()
    """What it was tried with."""
    of: int = 0
    """How many tests enter it."""


@dataclass
class Trial:
    """A module's mutants and what became of them."""

    path: str
    of: int
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0

    @property
    def survivors(self) -> list[Verdict]:
        """Those that no test has noticed."""
        return [verdict for verdict in self.verdicts if not verdict.by]

    @property
    def killed(self) -> int:
        """How many were noticed."""
        return len(self.verdicts) - len(self.survivors)


def of_module(bench: Bench, path: str) -> list[Mutant]:
    """All its mutants but those that are known to be none."""
    found = finder.mutants(path, (bench.tree.folder / path).read_text())
    return [mutant for mutant in found if mutant.key not in EQUIVALENT]


def sampled(mutants: Sequence[Mutant], most: int, path: str) -> list[Mutant]:
    """Some of them by chance, the same in each run, in the order of their lines."""
    if not most or most >= len(mutants):
        return list(mutants)
    chosen = random.Random(path).sample(range(len(mutants)), most)
    return [mutants[place] for place in sorted(chosen)]


class Court:
    """Tries mutants with the tests that enter them, first those that have killed others."""

    def __init__(self, bench: Bench, callers: Callers, path: str) -> None:
        self._bench = bench
        self._callers = callers
        self._source = (bench.tree.folder / path).read_text()
        self._kills: Counter[str] = Counter()
        self._files = list(GUARDED_BY[path])
        """Those of which nothing is known yet: needed only for what survives the tests of the others."""
        self._tests: list[Test] = []
        bench.take_up(self._files.copy())

    def judge(self, mutant: Mutant) -> Verdict:
        """Runs the tests that enter it until one fails, with the mutant in the running code."""
        running = self._callers.running(mutant.path, mutant.scope)
        verdict = self._try(mutant, [test for test in self._tests if test.reached & running])
        while not verdict.by and self._files:
            tests = reach.tests_of(self._bench, self._files.pop(0))
            self._tests += tests
            more = self._try(mutant, [test for test in tests if test.reached & running])
            verdict = Verdict(mutant, more.by, [*verdict.tests, *more.tests], verdict.of + more.of)
        return verdict

    def _try(self, mutant: Mutant, entering: Sequence[Test]) -> Verdict:
        tests = self._in_order(entering)
        for _ in range(ATTEMPTS if tests else 0):
            answer = self._bench.ask([test.nodeid for test in tests], seconds=_limit(tests), mutant=self._told(mutant))
            if answer is None:
                return Verdict(mutant, "(time)", tests, len(entering))
            by = answer.get("failed", "")
            if not by:
                break
            # It must pass without the mutant, and at once: or it was the machine, or what the mutant left behind.
            again = self._bench.ask([by], seconds=_limit(tests))
            if again is not None and not again["failed"]:
                self._kills[by] += 1
                return Verdict(mutant, by, tests, len(entering))
            self._bench.rest()
        return Verdict(mutant, "", tests, len(entering))

    def _told(self, mutant: Mutant) -> dict[str, object]:
        dependents = self._callers.constants(mutant.path, mutant.scope)
        text = mutant.applied(self._source)
        return {"path": mutant.path, "scope": mutant.scope, "text": text, "dependents": dependents}

    def appeal(self, verdict: Verdict) -> None:
        """Tries a survivor in a process that is started with it; in a worker if no test entered it elsewhere.

        A constant that tests use has been changed wherever it is looked up, which is at each use.
        """
        mutant, service = verdict.mutant, verdict.mutant.path.split("/")[1]
        if verdict.of and not self._callers.is_function(mutant.path, mutant.scope):
            return
        with self._bench.tree.with_mutant(mutant):
            if verdict.of:
                verdict.by = self._run(mutant, verdict.tests)
            elif service in HAS_WORKER:
                verdict.tests = self._in_order(self._tests)
                # Whatever of these tests has its effect through the worker.
                with self._bench.worker_of_tree(service):
                    verdict.by = self._run(mutant, verdict.tests)
        if verdict.by and not verdict.by.startswith("("):
            outcome = self._bench.run([verdict.by], seconds=_limit(verdict.tests))
            verdict.by = verdict.by if outcome.status == 0 else ""

    def _run(self, mutant: Mutant, tests: Sequence[Test]) -> str:
        outcome = self._bench.run([test.nodeid for test in tests], seconds=_limit(tests))
        if outcome.status not in (0, 1, None):
            raise RuntimeError(f"no verdict on {mutant}: status {outcome.status}, see {self._bench.log}")
        return "(time)" if outcome.status is None else outcome.failed

    def _in_order(self, tests: Iterable[Test]) -> list[Test]:
        """Those likely to fail first; file by file, for what tests of a file share; the slow ones at the end."""
        of_file: Counter[str] = Counter()
        for test in tests:
            of_file[_file(test)] += self._kills[test.nodeid]

        def place(test: Test) -> tuple[object, ...]:
            of_this = -of_file[_file(test)], _file(test)
            return test.work > SLOW, *of_this, -self._kills[test.nodeid], test.work

        chosen, work = [], 0.0
        for test in sorted(tests, key=place):
            if work + test.work <= MOST_WORK or not chosen:
                chosen.append(test)
                work += test.work
        return chosen


def _file(test: Test) -> str:
    return test.nodeid.partition("::")[0]


def _limit(tests: Iterable[Test]) -> float:
    return 60 + 4 * sum(test.seconds for test in tests)
