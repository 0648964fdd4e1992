"""What decides in a text of SQL: conditions, locks, and what happens where a key is there already.

No full parser: the texts are this project's own, keywords in capitals, pieces of f-strings in braces.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.mutants.mutant import Edit

TOKEN = re.compile(
    r"--[^\n]*|'(?:[^']|'')*'|\{[^{}]*\}|[A-Za-z_:][\w.:]*|[0-9.]+|<=|>=|<>|<<=|&&|\|\||[-+*/%<>=&|,()\[\];]|\s+|."
)
LOCK = re.compile(r"FOR (?:NO KEY |KEY )?(?:UPDATE|SHARE)(?: OF \w+)?(?:\s+SKIP LOCKED)?\b")
ADVISORY = re.compile(r"pg_advisory_xact_lock(?:_shared)?(?=\()")
CONFLICT = re.compile(r"ON CONFLICT(?:\s*\([^()]*\))?\s+DO NOTHING")
LOOKS_LIKE_SQL = re.compile(
    r"\b(?:SELECT|UPDATE|INSERT INTO|DELETE FROM|WHERE|AND|EXISTS|CASE WHEN|IS (?:NOT )?NULL)\b"
)
KEY_OF_JOIN = re.compile(r"\w+\.\w+ = \w+\.\w+")
OPENS = {"WHERE", "WHEN", "ON"}
JOINS = {"AND": "true", "OR": "false"}
ENDS = {
    *("GROUP", "ORDER", "LIMIT", "RETURNING", "FOR", "UNION", "WINDOW", "HAVING", "JOIN", "LEFT", "CROSS", "INNER"),
    *("AS", "THEN", "FROM", "SET", "SELECT", "INSERT", "UPDATE", "DELETE", "VALUES", "DO"),
}


@dataclass
class Frame:
    """What is between two brackets, or between CASE and END."""

    is_case: bool = False
    begin: int | None = None
    """Where the operand begins that is being read; None if nothing that could be one is."""
    opener: str = ""
    """WHERE, WHEN or ON, if the condition that is being read began with it."""
    joined: str = ""
    """What stands before the operand: AND, OR or nothing."""
    operands: list[tuple[int, int, str]] = field(default_factory=list)
    """Of the condition that is being read: begin, end, and what it would be replaced by."""


def edits(text: str) -> Iterator[Edit]:
    """Each single thing that decides in it, taken away."""
    for pattern, kind, instead in ((LOCK, "lock", ""), (ADVISORY, "lock", ""), (CONFLICT, "conflict", "")):
        for match in pattern.finditer(text):
            yield Edit(match.start(), match.end(), instead, kind)
    yield from _Reader(text).conditions()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._frames = [Frame(begin=0)]
        self._found: list[Edit] = []
        self._last = ""

    def conditions(self) -> Iterator[Edit]:
        """Each operand of AND and OR, and each condition by itself."""
        for match in TOKEN.finditer(self._text):
            token = match[0]
            if not token.strip() or token.startswith("--"):
                continue
            self._take(token, match.start(), match.end())
            self._last = token
        while self._frames:
            self._close(len(self._text))
        yield from sorted(self._found, key=lambda edit: edit.begin)

    def _take(self, token: str, begin: int, end: int) -> None:
        frame = self._frames[-1]
        if token in ("(", "["):
            self._frames.append(Frame(begin=end))
        elif token == "CASE":
            self._frames.append(Frame(is_case=True))
        elif token in (")", "]") or (token == "END" and frame.is_case):
            self._close(begin)
        elif token in JOINS:
            self._operand(begin, JOINS[token])
            frame.begin, frame.joined = end, token
        elif token in OPENS:
            self._finish(begin)
            frame.begin, frame.opener = end, token
            if frame.is_case and token == "WHEN" and self._last not in ("CASE", "") and self._is_simple(begin):
                frame.begin = None
        elif token == "CONFLICT":
            frame.begin, frame.opener = None, ""
        elif token == "," or (token in ENDS and not (token == "FROM" and self._last == "DISTINCT")):
            self._finish(begin)
            frame.begin = end
        elif token == "ELSE":
            self._finish(begin)

    def _is_simple(self, begin: int) -> bool:
        """Whether this WHEN compares with a value: CASE x WHEN 'a'."""
        case = self._text.rindex("CASE", 0, begin)
        between = self._text[case + 4 : begin]
        return "THEN" not in between or not between.lstrip().startswith("WHEN")

    def _operand(self, end: int, instead: str) -> None:
        """Notes what has been read as an operand of what comes next."""
        frame = self._frames[-1]
        if frame.begin is not None:
            # Beside an AND it is one condition more; between two ORs one way more.
            frame.operands.append((frame.begin, end, "true" if frame.joined == "AND" else instead))
        frame.begin = None

    def _finish(self, end: int) -> None:
        """The condition that has been read is at its end."""
        frame = self._frames[-1]
        if frame.joined:
            self._operand(end, JOINS[frame.joined])
        elif frame.begin is not None and frame.opener in ("WHERE", "WHEN"):
            self._operand(end, "false" if frame.opener == "WHEN" else "true")
        for begin, stop, instead in frame.operands:
            piece = self._text[begin:stop]
            begin += len(piece) - len(piece.lstrip())
            stop -= len(piece) - len(piece.rstrip())
            bare = self._text[begin:stop]
            if not bare or (frame.opener == "ON" and KEY_OF_JOIN.fullmatch(bare)):
                continue
            if frame.opener == "WHEN":
                self._found += [Edit(begin, stop, each, "case") for each in ("true", "false")]
            else:
                self._found.append(Edit(begin, stop, instead, "condition"))
        frame.begin, frame.opener, frame.joined, frame.operands = None, "", "", []

    def _close(self, end: int) -> None:
        self._finish(end)
        self._frames.pop()
        if not self._frames and end < len(self._text):
            self._frames.append(Frame())  # a piece of SQL whose opening bracket is in another one
