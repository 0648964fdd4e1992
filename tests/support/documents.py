"""What documents show, against what commands print: shell blocks with their expected output."""

import re
from dataclasses import dataclass

MASKS = (
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)"), "<time>"),
    (re.compile(r"^\d\d:\d\d:\d\d  ", re.MULTILINE), "<clock>  "),
    (re.compile(r"\bgh[a-z]_[A-Za-z0-9_-]+"), "<secret>"),
)
_KEY = re.compile(r'"([a-z]+(?:_[a-z0-9]+)+)":')
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def masked(text: str) -> str:
    """A text in which what differs each time is a mark. Fields have their JSON names: releases of tools differ."""
    for pattern, mark in MASKS:
        text = pattern.sub(mark, text)
    return _KEY.sub(lambda found: '"' + re.sub(r"_(\w)", lambda part: part[1].upper(), found[1]) + '":', text)


@dataclass(frozen=True)
class Step:
    """A shell block of a document, and what it says that it prints; None if it says nothing."""

    shell: str
    printed: str | None


def steps(markdown: str, heading: str) -> list[Step]:
    """The shell blocks of a section, in order; a `text` block after one is its output."""
    (section,) = re.findall(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", markdown, re.MULTILINE | re.DOTALL)
    found: list[Step] = []
    for language, content in _BLOCK.findall(section):
        if language == "sh":
            found.append(Step(content, None))
        elif language == "text":
            found[-1] = Step(found[-1].shell, content)
    return found
