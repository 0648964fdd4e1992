"""Writes docs/configuration.md, the reference of every setting, from the classes that read them:

python -m deploy.configuration
"""

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from deploy.remote.settings import VARIABLES as OF_THE_COMMAND
from deploy.stack.settings import SERVICES
from deploy.stack.settings import VARIABLES as OF_THE_SUITE
from services.chassis.settings import (
    PREFIX,
    BrokerSettings,
    DatabaseSettings,
    MailSettings,
    ServeSettings,
    WorkerSettings,
)
from services.identity.settings import AdminSettings, IdentitySettings, IdentityWorkerSettings
from services.membership.settings import MembershipSettings
from services.messaging.settings import BlobSettings, MessagingSettings, MessagingWorkerSettings, RateSettings

FILE = Path(__file__).parents[1] / "docs" / "configuration.md"
LOADED: Mapping[tuple[str, str], type[BaseModel]] = {
    ("identity", "serve"): IdentitySettings,
    ("identity", "worker"): IdentityWorkerSettings,
    ("identity", "admin"): AdminSettings,
    ("membership", "serve"): MembershipSettings,
    ("membership", "worker"): WorkerSettings,
    ("guest", "serve"): ServeSettings,
    ("guest", "worker"): ServeSettings,
    ("messaging", "serve"): MessagingSettings,
    ("messaging", "worker"): MessagingWorkerSettings,
    **{(service, "migrate"): DatabaseSettings for service in SERVICES},
    ("", "beat"): BrokerSettings,
}
"""What each process loads."""
GROUPS: Mapping[str, tuple[type[BaseModel], ...]] = {
    "Database and broker": (DatabaseSettings, BrokerSettings),
    "Listening, peers, keys": (WorkerSettings, ServeSettings),
    "Mail": (MailSettings,),
    "identity": (IdentityWorkerSettings, IdentitySettings),
    "membership": (MembershipSettings,),
    "messaging": (BlobSettings, RateSettings, MessagingSettings),
}
_HEAD = """# Configuration

Made by `python -m deploy.configuration` from the classes that read the settings; do not edit it by hand.

Settings are environment variables; secrets are files. A process that misses some, or finds them wrong, names all of
them and exits with 2. A service runs as `python -m services.NAME serve | worker | migrate` (identity also `admin`), and
one `python -m services.beat` for the suite. `guildhall up` makes for its services where they listen and find each
other, the database, Valkey, keys, certificates and the folder of mails; every other setting below it hands on to them.
It refuses to start with a `GUILDHALL_` variable that is none of these: a misspelt one would otherwise not be noticed.

What rotates without a restart, and how, is in the [runbook](runbook.md#rotate); limits that are no settings are in
[limits](limits.md).
"""
_TABLE = "| variable | form | default | what | read by |\n|---|---|---|---|---|\n"


def render() -> str:
    """The whole document."""
    parts = [_HEAD, "## The embedded suite and the command\n", "| variable | default | what |\n|---|---|---|\n"]
    for name, (default, what) in {**OF_THE_SUITE, **OF_THE_COMMAND}.items():
        parts[-1] += f"| `{name}` | {default} | {what} |\n"
    parts.append("## The services\n")
    for title, classes in GROUPS.items():
        rows = [_row(name, field) for each in classes for name, field in own_fields(each)]
        parts.append(f"### {title}\n\n{_TABLE}{''.join(rows)}")
    return "\n".join(parts)


def own_fields(settings: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields that a class adds to those above it."""
    for name in settings.__annotations__:
        if name in settings.model_fields:
            yield name, settings.model_fields[name]


def _row(name: str, field: FieldInfo) -> str:
    cells = (f"`{PREFIX}{name.upper()}`", _form(field), _default(field), field.description or "", _readers(name))
    return f"| {' | '.join(cells)} |\n"


def _form(field: FieldInfo) -> str:
    """What a value looks like."""
    kind: Any = field.annotation
    if get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    if kind in (int, float):
        return f"number{_bounds(field)}"
    text = str(kind) + str(field.metadata)
    if "function address" in text:
        return "HOST:PORT"
    return ("folder" if "readable" not in text else "file") if "Path" in text else "text"


def _bounds(field: FieldInfo) -> str:
    lowest = next((each.ge for each in field.metadata if hasattr(each, "ge")), None)
    highest = next((each.le for each in field.metadata if hasattr(each, "le")), None)
    if lowest is None:
        return ""
    return f" from {lowest}" if highest is None else f" from {lowest} to {highest}"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "a folder in `.guildhall`"
    if field.default is PydanticUndefined:
        return "must be set"
    if field.default is None:
        return "none"
    value = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
    return f"`{value}`"


def _readers(name: str) -> str:
    """The processes that read it: a command that all services have by its name alone."""
    found: dict[str, list[str]] = {}
    for (service, command), settings in LOADED.items():
        if name in settings.model_fields:
            found.setdefault(command, []).append(service)
    return ", ".join(
        command if len(services) == len(SERVICES) or services == [""] else f"{command} of {' and '.join(services)}"
        for command, services in found.items()
    )


if __name__ == "__main__":
    FILE.write_text(render())
