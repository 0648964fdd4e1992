"""What a command prints: lines for people, or JSON for programs."""

import json
from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """The form of it."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="For people, or for programs.")]


def print_json(value: object) -> None:
    """Prints a value for programs; it holds nothing that a terminal would take for a command."""
    print(json.dumps(value, indent=1))
