"""The table of docs/reliability.md: a run writes its own rows, and no others."""

import datetime
from pathlib import Path

import pytest

from tests.faults import page
from tests.faults.__main__ import SCENARIOS
from tests.faults.bench import Result

DAY = datetime.date(2030, 1, 2)
COMMAND = 'make faults F="F13" FAULT_ROUNDS=2'
TITLES = {"F2": "kill -9 of something", "F13": "a row"}
GOOD = Result(2, True, True, {"p99_ratio": 1.1, "ratio_goal": 2.0, "control": {"p99_ratio": 17}})


def written(tmp_path: Path, *rows: str, **results: Result) -> list[str]:
    file = tmp_path / "page.md"
    file.write_text("\n".join(["# Before", page.BEGIN, *page.HEAD, *rows, page.END, "after"]))
    page.update(file, TITLES, results, on=DAY, command=COMMAND)
    page.update(file, TITLES, results, on=DAY, command=COMMAND)
    text = file.read_text()
    assert text.startswith(f"# Before\n{page.BEGIN}\n\n")
    assert text.endswith(f"\n\n{page.END}\nafter")
    return [line for line in text.splitlines() if line.startswith("| F")]


def test_a_run_writes_its_row_and_leaves_the_others(tmp_path: Path) -> None:
    other, older = "| F2 | kept | as it was | so | then |", "| F13 | older | … | … | … |"

    rows = written(tmp_path, other, older, F13=GOOD)

    assert rows[0] == other
    assert rows[1] == (
        "| F13 | a row | the others' p99 1.1 times the calm one (goal 2) | without the side lane 17 times "
        '| 2030-01-02, 2 rounds: `make faults F="F13" FAULT_ROUNDS=2` |'
    )
    assert len(rows) == 2


def test_rows_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    assert [row[:6] for row in written(tmp_path, "| F2 | x |", F13=GOOD)] == ["| F2 |", "| F13 "]


def test_what_does_not_hold_says_so(tmp_path: Path) -> None:
    broken = Result(1, False, False, {"error": "TimeoutError: a | b"})

    (row,) = written(tmp_path, F13=broken)

    assert "**does not hold**: TimeoutError: a / b" in row
    assert "**did not fail**" in row


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("# Nothing")

    with pytest.raises(ValueError, match="has no place for the table"):
        page.update(file, TITLES, {"F13": GOOD}, on=DAY, command=COMMAND)

    assert file.read_text() == "# Nothing"


def test_every_fault_can_be_told_and_the_page_has_its_place() -> None:
    assert set(SCENARIOS) <= set(page._TOLD)
    assert page.BEGIN in page.PAGE.read_text()
