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
from tests.rules.sources import ROOT

MOST_TEST_SECONDS = 25
"""What a mutant's tests take together without it: the rest of those that enter it is not run."""
SLOW_SECONDS = 3
HAS_WORKER = {"identity", "membership", "guest", "messaging"}


@dataclass
class Verdict:
    """What became of one mutant."""

    mutant: Mutant
    by: str
    """The test that killed it; "(time)" if it never ended; empty if it survived."""
    tests: int
    """How many tests it was tried with."""
    of: int
    """How many enter it."""
    seconds: float = 0

    def and_then(self, later: "Verdict") -> "Verdict":
        """What became of it after more tests."""
        tests, of, seconds = self.tests + later.tests, self.of + later.of, self.seconds + later.seconds
        return Verdict(self.mutant, later.by, tests, of, seconds)


@dataclass
class Trial:
    """A module's mutants and what became of them."""

    path: str
    of: int
    verdicts: list[Verdict] = field(default_factory=list)
    equivalent: int = 0
    void: list[str] = field(default_factory=list)
    """Tests that killed mutants and then failed without one: what they killed counts as survived."""

    @property
    def survivors(self) -> list[Verdict]:
        """Those that no test has noticed."""
        return [verdict for verdict in self.verdicts if not verdict.by or verdict.by in self.void]

    @property
    def killed(self) -> int:
        """How many were noticed."""
        return len(self.verdicts) - len(self.survivors)


def of_module(path: str) -> list[Mutant]:
    """All its mutants but those that are known to be none."""
    return [mutant for mutant in finder.mutants(path, (ROOT / path).read_text()) if mutant.key not in EQUIVALENT]


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
        self._kills: Counter[str] = Counter()
        self._files = list(GUARDED_BY[path])
        """Those of which nothing is known yet: needed only for what survives the tests of the others."""
        self._tests: list[Test] = []

    def judge(self, mutant: Mutant) -> Verdict:
        """Runs the tests that enter it until one fails."""
        running = self._callers.running(mutant.path, mutant.scope)
        verdict = self._with(mutant, [test for test in self._tests if test.reached & running])
        while not verdict.by and self._files:
            tests = reach.tests_of(self._bench, self._files.pop(0))
            self._tests += tests
            verdict = verdict.and_then(self._with(mutant, [test for test in tests if test.reached & running]))
        service = mutant.path.split("/")[1]
        if not verdict.of and service in HAS_WORKER:
            # Whatever of these tests has its effect through the worker.
            with self._bench.tree.with_mutant(mutant), self._bench.worker_of_tree(service):
                return self._run(mutant, self._tests)
        return verdict

    def _with(self, mutant: Mutant, entering: Sequence[Test]) -> Verdict:
        if not entering:
            return Verdict(mutant, "", 0, 0)
        with self._bench.tree.with_mutant(mutant):
            return self._run(mutant, entering)

    def _run(self, mutant: Mutant, entering: Sequence[Test]) -> Verdict:
        tests = self._in_order(entering)
        expected = sum(test.seconds for test in tests)
        outcome = self._bench.run([test.nodeid for test in tests], seconds=30 + 4 * expected)
        by = outcome.failed or ("(time)" if outcome.status is None else "")
        if not by and outcome.status != 0:
            raise RuntimeError(f"no verdict on {mutant}: status {outcome.status}, see {self._bench.log}")
        self._kills[by] += 1
        return Verdict(mutant, by, len(tests), len(entering), outcome.seconds)

    def _in_order(self, tests: Iterable[Test]) -> list[Test]:
        """Those likely to fail first; file by file, for what tests of a file share; the slow ones at the end."""
        of_file: Counter[str] = Counter()
        for test in tests:
            of_file[_file(test)] += self._kills[test.nodeid]

        def place(test: Test) -> tuple[object, ...]:
            of_this = -of_file[_file(test)], _file(test)
            return test.seconds > SLOW_SECONDS, *of_this, -self._kills[test.nodeid], test.seconds

        chosen, seconds = [], 0.0
        for test in sorted(tests, key=place):
            if seconds + test.seconds <= MOST_TEST_SECONDS or not chosen:
                chosen.append(test)
                seconds += test.seconds
        return chosen

    def control(self, trial: Trial) -> None:
        """Runs the tests that killed without a mutant: one that fails now has shown nothing."""
        killers = sorted({verdict.by for verdict in trial.verdicts} - {"", "(time)", "(import)"})
        while killers:
            outcome = self._bench.run(killers, seconds=600)
            if outcome.status == 0:
                return
            failed = outcome.failed or killers[0]
            trial.void.append(failed)
            killers = [nodeid for nodeid in killers if nodeid != failed]


def _file(test: Test) -> str:
    return test.nodeid.partition("::")[0]
