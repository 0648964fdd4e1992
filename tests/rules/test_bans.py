"""What may not be written, or only in one place."""

import ast
import re
from collections.abc import Callable
from importlib import import_module

import pytest
import sqlalchemy as sa

from tests.rules.sources import SERVICES, Source, full_name, imports, report, service_sources, sources, strings

TRANSACTION_CLOCK = re.compile(
    r"\b(now|transaction_timestamp)\s*\(\s*\)|\b(current_timestamp|current_time|current_date|localtimestamp|localtime)\b",
    re.IGNORECASE,
)
COMMITTING = re.compile(r"^\s*commit\b", re.IGNORECASE)
OTHER_SCHEMA = re.compile(
    r"\b(?:references|from|join|into|update|table|only)\s+\"?(identity|membership|guest|messaging)\"?\.", re.IGNORECASE
)
READS_THE_ENVIRONMENT = {
    "deploy/envoy/__main__.py": "hands it to options.read_options, and nothing else",
    "deploy/remote/commands.py": "hands it to settings.py, and nothing else",
    "deploy/stack/cli.py": "hands it to settings.load, and nothing else",
    "deploy/stack/demo.py": "keeps the log level of its caller in the settings it makes",
    "deploy/stack/processes.py": "gives children what is left of it without our own variables",
    "deploy/stack/up.py": "starts itself in the background, and prints commands with the caller's variables",
    "build_protos.py": "looks for protoc's plugins on the PATH",
}
"""Besides settings modules; each with its reason."""


def commits(source: Source) -> list[str]:
    """A transaction ended by anybody but the frame."""
    if source.service == "chassis":
        return []
    faults = [node for node in ast.walk(source.tree) if isinstance(node, ast.Attribute) and node.attr == "commit"]
    statements = [node for node in strings(source) if COMMITTING.match(str(node.value))]
    return [source.fault(n, "only the frame commits: use database.transaction(work)") for n in (*faults, *statements)]


def environment_reads(source: Source) -> list[str]:
    """os.environ and its like, and classes that read it, outside settings modules."""
    if source.parts[-1] == "settings.py" or source.path in READS_THE_ENVIRONMENT:
        return []
    what = "settings modules read the environment; take the value as an argument"
    reads = [
        node
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        and full_name(source, node) in ("os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv")
    ]
    named = [
        node
        for node, _, name in imports(source)
        if name in ("os.environ", "os.environb", "os.getenv") or name.startswith("pydantic_settings")
    ]
    return [source.fault(node, what) for node in (*reads, *named)]


def transaction_clocks(source: Source) -> list[str]:
    """The transaction's start taken for the time: after a lock wait it calls valid what has expired."""
    what = "is the transaction's start; use statement_timestamp(), in a statement after any lock"
    texts = [node for node in strings(source) if TRANSACTION_CLOCK.search(str(node.value))]
    calls = [
        node
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        and re.search(r"(^|\.)func\.(now|current_\w+|localtime\w*|transaction_timestamp)$", full_name(source, node))
    ]
    return [source.fault(node, f"the clock here {what}") for node in (*texts, *calls)]


def blocking_or_lost(source: Source) -> list[str]:
    """time.sleep, Celery's .delay, and print where a server or a worker runs."""
    found = []
    migrating = source.parts[-1] == "migrations.py" or "migrations" in source.parts
    printing = migrating or source.parts[-1] in ("settings.py", "command.py")
    slept = {name for name, full in source.aliases.items() if full == "time.sleep"}
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr in ("delay", "apply_async"):
            found.append(source.fault(node, "a task that is sent directly can be lost: write an outbox row (enqueue)"))
        asleep = full_name(source, called) == "time.sleep" or (isinstance(called, ast.Name) and called.id in slept)
        if asleep and not migrating:
            found.append(source.fault(node, "time.sleep stops every call of the process: await an event"))
        if isinstance(called, ast.Name) and called.id == "print" and not printing:
            found.append(source.fault(node, "log it, by structlog"))
    return found


def foreign_schemas(source: Source) -> list[str]:
    """SQL or tables that name a schema: a service has its own on the search path, and no other."""
    texts = [
        source.fault(node, f"names the schema {match[1]}; a service's tables are without one, and all its own")
        for node in strings(source)
        if (match := OTHER_SCHEMA.search(str(node.value)))
    ]
    keywords = [
        source.fault(node.value, f"{node.arg}= names a schema; leave it to the role's search_path")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.keyword) and node.arg in ("schema", "referent_schema", "source_schema")
    ]
    keys = [
        source.fault(argument, f"the foreign key {argument.value!r} leaves the schema")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and full_name(source, node.func).rpartition(".")[2].startswith("ForeignKey")
        for argument in ast.walk(node)
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and argument.value.count(".") > 1
    ]
    return [*texts, *keywords, *keys]


def foreign_keys_out(metadata: sa.MetaData) -> list[str]:
    """Tables with a schema, and foreign keys to a table that is not in the same metadata."""
    found = [f"{table.fullname}: has a schema" for table in metadata.tables.values() if table.schema]
    for table in metadata.tables.values():
        for key in table.foreign_keys:
            target = key.target_fullname.rpartition(".")[0]
            if target not in metadata.tables:
                found.append(f"{table.name}: its foreign key to {target} leaves the schema")
    return found


def in_services(rule: Callable[[Source], list[str]], *more: str) -> list[str]:
    """What a rule finds under services/ and in more folders."""
    return [fault for source in (*service_sources(), *sources(*more)) for fault in rule(source)]


def test_only_the_frame_commits() -> None:
    assert not (faults := in_services(commits)), report(faults)


def test_only_settings_modules_read_the_environment() -> None:
    assert not (faults := in_services(environment_reads, "deploy", "build_protos.py")), report(faults)


def test_each_exception_from_the_environment_rule_is_still_needed() -> None:
    for path in READS_THE_ENVIRONMENT:
        (source,) = sources(path)
        assert "environ" in source.text, f"{path} no longer reads the environment: take it off the list"


def test_no_decision_is_taken_by_the_transactions_start() -> None:
    assert not (faults := in_services(transaction_clocks)), report(faults)


def test_services_never_sleep_print_or_send_tasks_directly() -> None:
    assert not (faults := in_services(blocking_or_lost)), report(faults)


def test_no_sql_and_no_table_names_a_schema() -> None:
    assert not (faults := in_services(foreign_schemas)), report(faults)


@pytest.mark.parametrize("service", SERVICES)
def test_foreign_keys_stay_inside_the_schema(service: str) -> None:
    metadata = import_module(f"services.{service}.tables").METADATA

    assert {"outbox", "inbox", "idempotency_keys"} < set(metadata.tables)
    assert not (faults := foreign_keys_out(metadata)), report(faults)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (commits, "async def f(tx):\n    await tx.commit()"),
        (commits, "tx.execute(text('COMMIT'))"),
        (environment_reads, "import os\nos.environ['GUILDHALL_X']"),
        (environment_reads, "import os as system\nsystem.getenv('GUILDHALL_X')"),
        (environment_reads, "from os import environ"),
        (environment_reads, "from pydantic_settings import BaseSettings"),
        (transaction_clocks, "text('SELECT 1 FROM t WHERE NOW() < expire_at')"),
        (transaction_clocks, "text(f'SELECT {x} FROM t WHERE CURRENT_TIMESTAMP < expire_at')"),
        (transaction_clocks, "import sqlalchemy as sa\nsa.func.now()"),
        (transaction_clocks, "from sqlalchemy import func\nfunc.current_timestamp()"),
        (blocking_or_lost, "task.delay(1)"),
        (blocking_or_lost, "task.apply_async(args=[1])"),
        (blocking_or_lost, "import time\ntime.sleep(1)"),
        (blocking_or_lost, "from time import sleep as nap\nnap(1)"),
        (blocking_or_lost, "print('here')"),
        (foreign_schemas, "text('SELECT 1 FROM identity.users')"),
        (foreign_schemas, "op.execute('ALTER TABLE x ADD FOREIGN KEY (u) REFERENCES identity.users')"),
        (foreign_schemas, "Table('x', METADATA, schema='identity')"),
        (foreign_schemas, "sa.ForeignKeyConstraint(['u'], ['identity.users.id'])"),
        (foreign_schemas, "Column('u', ForeignKey('identity.users.id'))"),
    ],
)
def test_what_is_banned_is_found(rule: Callable[[Source], list[str]], code: str) -> None:
    assert len(rule(Source("services/guest/guests.py", code))) == 1


@pytest.mark.parametrize(
    ("rule", "path", "code"),
    [
        (commits, "services/chassis/database.py", "tx.commit()"),
        (environment_reads, "services/guest/settings.py", "import os\nos.environ"),
        (
            transaction_clocks,
            "services/guest/guests.py",
            "def f():\n    'Never now().'\n    text('x')",
        ),
        (blocking_or_lost, "services/chassis/migrations.py", "import time\ntime.sleep(1)\nprint(1)"),
        (foreign_schemas, "services/guest/guests.py", "scope = 'identity.users'"),
        (foreign_schemas, "services/guest/tables.py", "sa.ForeignKeyConstraint(['u'], ['guests.member_id'])"),
    ],
)
def test_what_is_not_banned_is_left_alone(rule: Callable[[Source], list[str]], path: str, code: str) -> None:
    assert not rule(Source(path, code))


def test_a_foreign_key_that_leaves_the_metadata_is_found() -> None:
    metadata = sa.MetaData()
    sa.Table("mine", metadata, sa.Column("id", sa.Text, primary_key=True))
    sa.Table("inside", metadata, sa.Column("id", sa.Text, sa.ForeignKey("mine.id")))
    sa.Table("outside", metadata, sa.Column("id", sa.Text, sa.ForeignKey("identity.users.id")))

    assert len(foreign_keys_out(metadata)) == 1
