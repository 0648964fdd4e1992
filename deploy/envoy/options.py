"""What an operator may set of the gateway. Each is a variable, for `guildhall up` and `deploy.envoy write` alike.

Imports nothing of the contracts, so that whoever only reads settings stays quick.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_ORIGIN = re.compile(r"https?://[^\s/?#@,]+")
_COLLECTOR = re.compile(r"http://[^\s/?#@]+/?")


@dataclass(frozen=True)
class Option:
    """A field of GatewaySettings that is set from outside; `read` raises ValueError with what it takes."""

    field: str
    default: str
    what: str
    read: Callable[[str], Any]

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"GUILDHALL_{self.field.upper()}"

    @property
    def flag(self) -> str:
        """Its name on the command line of `deploy.envoy write`."""
        return f"--{self.field.replace('_', '-')}"


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,7}", text) or not least <= int(text) <= most:
            raise ValueError(f"from {least} to {most}")
        return int(text)

    return read


def _share(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1
    if not 0 <= found <= 1:
        raise ValueError("from 0 to 1")
    return found


def _origins(text: str) -> tuple[str, ...]:
    found = tuple(filter(None, (each.strip() for each in text.split(","))))
    if not all(map(_ORIGIN.fullmatch, found)):
        raise ValueError("like https://app.example.com,https://admin.example.com")
    return found


def _collector(text: str) -> str:
    if not _COLLECTOR.fullmatch(text):
        raise ValueError("http://HOST:PORT: the gateway sends traces in plain text")
    return text


_RATE = _whole(1, 1_000_000)
OPTIONS = (
    Option("calls_per_second_of_user", "300", "a [limit](limits.md#the-gateway) of the gateway", _RATE),
    Option("calls_per_second_of_service_account", "3000", "likewise", _RATE),
    Option("calls_per_second_of_address", "100", "likewise: of calls without a token", _RATE),
    Option("sign_ins_per_second_of_address", "5", "likewise: of calls that try passwords or send mails", _RATE),
    Option("most_counted_callers", "10000", "callers of each kind that it counts", _RATE),
    Option("trusted_hops", "0", "proxies of one's own in front of the gateway, which tell it who calls", _whole(0, 9)),
    Option("allowed_origins", "", "of web pages that may call beside the product's own, with commas between", _origins),
    Option("otlp_endpoint", "", "a collector of traces", _collector),
    Option("traces_ratio", "0.01", "traced of calls without a traceparent", _share),
)


def read_options(texts: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The fields that are set, by the names of their variables in `texts`; and what is wrong with the others."""
    fields: dict[str, Any] = {}
    problems = []
    for option in OPTIONS:
        if option.variable in texts:
            try:
                fields[option.field] = option.read(texts[option.variable])
            except ValueError as error:
                problems.append(f"{option.variable} must be {error}, not {texts[option.variable]!r}")
    return fields, problems
