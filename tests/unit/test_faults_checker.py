"""The checker must see each kind of harm, or a green fault test would mean nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.checker import Stored, check
from tests.faults.ledger import Ledger, Outcome, Write, key_of

CONVERSATION = "c"


def stored(*keys: str) -> list[Stored]:
    return [Stored(key, number, number, f"id of {key}") for number, key in enumerate(keys, start=1)]


def acknowledged(key: str, seq: int) -> Write:
    return Write(key, CONVERSATION, outcome=Outcome.ACK, message_id=f"id of {key}", seq=seq)


def kinds(
    writes: list[Write],
    table: list[Stored],
    *,
    pages: list[Stored] | None = None,
    stream: list[Stored] | None = None,
) -> set[str]:
    findings = check(
        writes,
        table={CONVERSATION: table},
        pages={CONVERSATION: table if pages is None else pages},
        streams={"s": {CONVERSATION: table if stream is None else stream}},
    )
    return set(findings.counts)


def test_what_is_as_it_should_be_is_not_found_fault_with() -> None:
    writes = [
        acknowledged("a", 1),
        Write("b", CONVERSATION, outcome=Outcome.UNKNOWN),
        Write("c", CONVERSATION, outcome=Outcome.UNKNOWN),
        Write("d", CONVERSATION, outcome=Outcome.REFUSED),
        Write("e", CONVERSATION),
    ]
    assert kinds(writes, stored("a", "b", "e")) == set()


def test_an_acknowledged_write_that_is_not_stored_is_lost() -> None:
    assert kinds([acknowledged("a", 1), acknowledged("b", 2)], stored("a")) == {"lost"}


@pytest.mark.parametrize("outcome", [Outcome.ACK, Outcome.UNKNOWN])
def test_a_write_that_is_stored_twice_is_doubled(outcome: Outcome) -> None:
    write = replace(acknowledged("a", 1), outcome=outcome)
    assert "doubled" in kinds([write], stored("a", "a"))


def test_a_write_that_is_stored_otherwise_than_told_is_found() -> None:
    assert kinds([acknowledged("a", 2), acknowledged("b", 1)], stored("a", "b")) == {"not as told"}


def test_a_refused_write_that_is_stored_is_found() -> None:
    assert kinds([Write("a", CONVERSATION, outcome=Outcome.REFUSED)], stored("a")) == {"refused but stored"}


def test_a_row_that_nobody_wrote_is_found() -> None:
    assert kinds([acknowledged("a", 1)], stored("a", "x")) == {"nobody wrote it"}


def test_what_a_stream_sent_in_another_order_is_found() -> None:
    first, second = replace(acknowledged("a", 2), stream="s"), replace(acknowledged("b", 1), stream="s")
    assert kinds([first, second], stored("b", "a")) == {"out of order"}
    assert kinds([first, replace(second, stream="another")], stored("b", "a")) == set()


def test_a_hole_in_the_numbers_is_found() -> None:
    table = [Stored("a", 1, 1, "id of a"), Stored("b", 3, 3, "id of b")]
    assert kinds([acknowledged("a", 1), acknowledged("b", 3)], table) == {"hole"}


def test_event_numbers_that_do_not_rise_are_found() -> None:
    table = [Stored("a", 1, 2, "id of a"), Stored("b", 2, 1, "id of b")]
    assert kinds([acknowledged("a", 1), acknowledged("b", 2)], table) == {"event order"}


def test_a_page_that_differs_from_the_table_is_found() -> None:
    writes, table = [acknowledged("a", 1), acknowledged("b", 2)], stored("a", "b")
    assert kinds(writes, table, pages=table[:1]) == {"page differs"}
    assert kinds(writes, table, pages=table[::-1]) == {"page differs"}


def test_a_stream_that_misses_repeats_or_reorders_is_found() -> None:
    writes, table = [acknowledged("a", 1), acknowledged("b", 2)], stored("a", "b")
    assert kinds(writes, table, stream=table[1:]) == {"stream hole"}
    assert kinds(writes, table, stream=[*table, table[0]]) == {"streamed twice"}
    assert kinds(writes, table, stream=table[::-1]) == {"stream differs"}
    assert kinds(writes, table, stream=[*table, Stored("x", 3, 3, "?")]) == {"streamed, not stored"}


def test_the_ledger_has_the_intent_on_file_before_anything_else(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    ledger = Ledger(file)
    write = ledger.intend(CONVERSATION)
    assert [json.loads(line)["outcome"] for line in file.read_text().splitlines()] == ["INTENT"]
    ledger.acknowledge(write, message_id="id", seq=1)
    ledger.settle(ledger.intend(CONVERSATION), Outcome.UNKNOWN)
    outcomes = [json.loads(line)["outcome"] for line in file.read_text().splitlines()]
    ledger.close()
    assert outcomes == ["INTENT", "ACK", "INTENT", "UNKNOWN"]
    assert key_of(write.text) == write.key
    assert ledger.count(Outcome.ACK) == 1
