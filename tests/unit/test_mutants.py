"""The mutants' tool: what it finds in code and SQL, whose tests try it, and what it learns from a child."""

import ast
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.mutants import equivalents, finder, modules, statements
from tests.mutants.callers import Callers
from tests.mutants.mutant import Mutant
from tests.rules.sources import ROOT, Source


def found(code: str) -> list[str]:
    """What a module's mutants are."""
    code = textwrap.dedent(code)
    return [f"{each.scope} {each.edit.kind}: {each.was} → {each.edit.instead}" for each in finder.mutants("m.py", code)]


def conditions(text: str) -> list[str]:
    """What is taken away in a piece of SQL."""
    return [f"{text[each.begin : each.end]} → {each.instead}" for each in statements.edits(text)]


def test_guards_are_taken_away_as_a_whole_and_side_by_side() -> None:
    code = """
        def f(a, b):
            if a is None or b > 1:
                raise ValueError
    """

    assert found(code) == [
        "f side: a is None → False",
        "f guard: a is None or b > 1 → False",
        "f side: b > 1 → False",
        "f comparison: b > 1 → >=",
    ]


def test_a_guard_of_one_comparison_is_taken_away_and_not_turned_round() -> None:
    assert found("async def f(a):\n    if a == 1:\n        return 2\n    return 3") == ["f guard: a == 1 → False"]


def test_checks_and_awaited_calls_without_an_answer_are_left_out() -> None:
    code = """
        class A:
            async def f(self, tx):
                require(tx)
                note(tx)
                await lock(tx)
                row = await find(tx)
                return row
    """

    assert found(code) == ["A.f call: require(tx) → pass", "A.f call: await lock(tx) → pass"]


def test_functions_have_the_names_of_their_code_objects() -> None:
    code = """
        def f():
            def g(a):
                return a.x == 1 and a.y
            return g
    """

    assert [each.split(" ")[0] for each in found(code)] == ["f.<locals>.g"] * 3


def test_what_decides_nothing_is_left_alone() -> None:
    code = """
        \"\"\"SELECT FROM a WHERE b AND c\"\"\"
        def f(a, b):
            \"\"\"UPDATE a SET b WHERE c\"\"\"
            if time.monotonic() < a:
                b = 1
            return a or b
    """

    assert found(code) == []


def test_each_condition_of_a_statement_is_taken_away_by_itself() -> None:
    assert conditions("UPDATE a SET b = :b WHERE id = :id AND ended_at IS NULL RETURNING id") == [
        "id = :id → true",
        "ended_at IS NULL → true",
    ]
    assert conditions("DELETE FROM a WHERE id = :id") == ["id = :id → true"]


def test_ways_in_are_shut_and_conditions_inside_of_others_found() -> None:
    text = "SELECT FROM a WHERE b = 1 AND (c IS NULL OR EXISTS (SELECT FROM d WHERE d.e = a.e AND f)) ORDER BY b"

    assert conditions(text) == [
        "b = 1 → true",
        "(c IS NULL OR EXISTS (SELECT FROM d WHERE d.e = a.e AND f)) → true",
        "c IS NULL → false",
        "EXISTS (SELECT FROM d WHERE d.e = a.e AND f) → false",
        "d.e = a.e → true",
        "f → true",
    ]


def test_cases_are_taken_both_ways_unless_they_compare_with_values() -> None:
    assert conditions("CASE WHEN a < b THEN 1 ELSE 2 END") == ["a < b → true", "a < b → false"]
    assert conditions("CASE a WHEN 'x' THEN 1 WHEN 'y' THEN 2 END") == []


def test_locks_and_what_happens_to_a_key_that_is_there_are_found() -> None:
    assert conditions("SELECT FROM a FOR NO KEY UPDATE OF a SKIP LOCKED")[0] == "FOR NO KEY UPDATE OF a SKIP LOCKED → "
    assert conditions("INSERT INTO a VALUES (1) ON CONFLICT (b) DO NOTHING") == ["ON CONFLICT (b) DO NOTHING → "]
    assert conditions("SELECT pg_advisory_xact_lock(hashtext(:a))") == ["pg_advisory_xact_lock → "]


def test_a_join_keeps_its_key_and_loses_its_conditions() -> None:
    text = "SELECT FROM a LEFT JOIN b ON b.id = a.id AND b.state = 'x' WHERE a.id IS DISTINCT FROM :id AND a.c"

    assert conditions(text) == ["b.state = 'x' → true", "a.id IS DISTINCT FROM :id → true", "a.c → true"]


def test_pieces_of_other_texts_are_one_condition() -> None:
    code = 'ONE = "a = :a AND b = :b"\nFIND = text(f"SELECT FROM c WHERE {ONE} AND NOT {TWO}")'

    assert found(code) == [
        "ONE condition: a = :a → true",
        "ONE condition: b = :b → true",
        "FIND condition: {ONE} → true",
        "FIND condition: NOT {TWO} → true",
    ]


def test_sql_is_run_by_the_functions_that_use_what_it_is_part_of() -> None:
    one = Source("services/x/one.py", 'PART = "a"\nWHOLE = f"{PART}"\ndef f():\n    return WHOLE\ndef g(): pass')
    two = Source("services/x/two.py", "from services.x import one\nclass A:\n    def f(self):\n        return one.PART")

    callers = Callers((one, two))

    assert callers.running("services/x/one.py", "PART") == {"services/x/one.py:f", "services/x/two.py:A.f"}
    assert callers.running("services/x/one.py", "g") == {"services/x/one.py:g"}
    assert callers.constants("services/x/one.py", "PART") == [("services/x/one.py", "WHOLE")]


def test_every_module_that_decides_is_there_and_guarded_by_tests_that_are() -> None:
    for path, tests in modules.GUARDED_BY.items():
        assert tests, path
        assert all((ROOT / file).is_file() for file in (path, *tests)), path


@pytest.mark.parametrize("path", modules.GUARDED_BY)
def test_mutants_of_the_modules_are_programs(path: str) -> None:
    source = (ROOT / path).read_text()
    mutants = finder.mutants(path, source)

    assert mutants
    assert len({mutant.key for mutant in mutants}) == len(mutants)
    for mutant in mutants[::12]:
        ast.parse(mutant.applied(source))


def test_every_mutant_that_is_held_to_be_none_is_there() -> None:
    paths = {key.partition(" ")[0] for key in equivalents.EQUIVALENT}
    there = {mutant.key for path in paths for mutant in _of(path)}

    assert not set(equivalents.EQUIVALENT) - there


def _of(path: str) -> list[Mutant]:
    return finder.mutants(path, (ROOT / path).read_text())


ONCE = """
outcome = children.run(folder, ["test_it.py"], environment={}, seconds=float(sys.argv[2]), log=folder / "log")
answers = [outcome.status, outcome.failed]
"""
LASTING = """
child = children.Lasting(folder, ["test_it.py"], environment={}, log=folder / "log")
answers = [child.ask(seconds=20, **request) for request in json.loads(sys.argv[2])]
child.end()
"""
MODULE = """LIMIT = 1
TEXT = f"at most {LIMIT}"


def limit():
    return LIMIT
"""
TESTS = """from services import it, other


def test_limit():
    assert it.limit() == 1


def test_both():
    assert it.limit() == 1
    assert other.WHOLE == "at most 1!"
"""


def child(script: str, folder: Path, argument: object, tests: str = TESTS) -> Any:
    """What comes of a child in a tree with two modules and a test file."""
    (folder / "services").mkdir()
    (folder / "services/__init__.py").touch()
    (folder / "services/it.py").write_text(MODULE)
    (folder / "services/other.py").write_text('from services import it\n\nWHOLE = f"{it.TEXT}!"\n')
    (folder / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    (folder / "test_it.py").write_text(tests)
    # In a process of its own, since nothing is forked from one with gRPC's threads.
    start = (
        "import json, sys\nfrom pathlib import Path\nfrom tests.mutants import children\nfolder = Path(sys.argv[1])\n"
    )
    code = f"{start}{script}print(json.dumps(answers))"
    command = [sys.executable, "-c", code, str(folder), json.dumps(argument)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def test_a_child_whose_tests_pass_says_nothing(tmp_path: Path) -> None:
    assert child(ONCE, tmp_path, 60) == [0, ""]


def test_a_child_says_which_test_failed(tmp_path: Path) -> None:
    assert child(ONCE, tmp_path, 60, TESTS.replace("1!", "2!")) == [1, "test_it.py::test_both"]


def test_a_child_that_never_ends_is_ended(tmp_path: Path) -> None:
    assert child(ONCE, tmp_path, 5, "def test_a():\n    while True:\n        pass\n") == [None, ""]


def asked(mutant: object = None, *, record: bool = False) -> dict[str, object]:
    """A request to the child that stays."""
    return {"tests": ["test_it.py::test_limit", "test_it.py::test_both"], "mutant": mutant, "record": record}


def changed(scope: str, text: str, *dependents: tuple[str, str]) -> dict[str, object]:
    """A mutant of the module."""
    return {"path": "services/it.py", "scope": scope, "text": text, "dependents": dependents}


def test_a_mutant_is_in_the_running_code_as_long_as_it_is_asked_about(tmp_path: Path) -> None:
    function = changed("limit", MODULE.replace("return LIMIT", "return LIMIT + 1"))
    dependents = ("services/it.py", "TEXT"), ("services/other.py", "WHOLE")
    constant = changed("LIMIT", MODULE.replace("LIMIT = 1", "LIMIT = True"), *dependents)

    answers = child(LASTING, tmp_path, [asked(), asked(function), asked(), asked(constant), asked()])

    assert [answer["failed"].rpartition("_")[2] for answer in answers] == ["", "limit", "", "both", ""]


def test_what_a_test_enters_is_noted(tmp_path: Path) -> None:
    tests = TESTS.replace("    assert other", "    other.WHOLE.strip()\n    assert other")

    (answer,) = child(LASTING, tmp_path, [asked(record=True)], tests)

    recorded = {nodeid.rpartition("_")[2]: test for nodeid, test in answer["recorded"].items()}
    assert [test["outcome"] for test in recorded.values()] == ["passed", "passed"]
    assert [test["reached"] for test in recorded.values()] == [["services/it.py:limit"]] * 2
