"""`guildhall backup`: the database as of one moment, the files that it knows, and the secrets that it takes to read it.

All four schemas are in one database, so one snapshot holds them. A file's parts are never changed, and the worker
removes none while a backup holds `BLOBS_LOCK`: what the snapshot knows of is copied after it, and is all there.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import sql

from deploy.stack import runs, secrets, suite
from deploy.stack.processes import inherited_environment
from deploy.stack.roles import DATABASE
from deploy.stack.settings import SERVICES, Settings, StackError
from deploy.stack.suite import Suite
from deploy.stack.supervisor import boot

FORMAT = 1
DUMP = "database.dump"
MANIFEST = "manifest.json"
BLOBS_LOCK = "guildhall blobs"
"""The name of the advisory lock that messaging's worker looks for before it removes anything (file_sweeps.py)."""
_LOCK_SECONDS = 10

_TABLES = """
    SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY(%s) ORDER BY schemaname, tablename
"""
_PARTS = """
    SELECT CAST(p.file_id AS text), p.number, p.sha256
    FROM messaging.file_parts p JOIN messaging.files f ON f.id = p.file_id ORDER BY p.file_id, p.number
"""

Progress = Callable[[str, int, int], None]
"""`progress(what, done, all)`."""


@dataclass(frozen=True)
class Manifest:
    """What a backup holds, and what to verify it by. Of parts of files the hash is in the name."""

    format: int
    guildhall: str
    postgresql: str
    taken_at: str
    revisions: dict[str, str]
    rows: dict[str, int]
    blobs: str
    """`folder` if the bytes of files are in the backup, else the URL of the bucket that has them."""
    parts: int
    damaged_files: list[str] = field(default_factory=list)
    """Files whose bytes the store had lost before."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of everything else, by its path in the backup."""


def read_manifest(folder: Path) -> Manifest:
    """What a backup says of itself. Raises `StackError` if it is none, or of a format that is not ours."""
    try:
        values = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise StackError(f"{folder} is no backup: it has no {MANIFEST}") from None
    except ValueError:
        raise StackError(f"{folder / MANIFEST} is damaged") from None
    if values.get("format") != FORMAT:
        raise StackError(f"{folder} is a backup of format {values.get('format')}; this release reads {FORMAT}")
    return Manifest(**values)


def write(stack: Suite, target: Path, progress: Progress) -> Manifest:
    """Make a backup in a folder that must not exist yet, or be empty. It is there whole, or not at all."""
    target = target.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StackError(f"{target} is there already, and is not overwritten")
    os.umask(0o077)
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise StackError(f"{partial} is there: another backup runs, or was interrupted and can be removed") from None
    try:
        with _blobs_held(stack) as admin:
            manifest = _write_all(stack, admin, partial, progress)
        secrets.write_private(partial / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
        os.sync()
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


@contextlib.contextmanager
def _blobs_held(stack: Suite) -> Iterator[psycopg.Connection]:
    with stack.admin_database() as admin:
        admin.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
        try:
            admin.execute("SELECT pg_advisory_lock(hashtext(%s))", (BLOBS_LOCK,))
        except psycopg.errors.LockNotAvailable:
            raise StackError("another backup of this suite is being made") from None
        yield admin


def _write_all(stack: Suite, admin: psycopg.Connection, folder: Path, progress: Progress) -> Manifest:
    with admin.transaction():
        admin.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        snapshot, taken_at, postgresql = _one(
            admin, "SELECT pg_export_snapshot(), CAST(statement_timestamp() AS text), current_setting('server_version')"
        )
        rows = count_rows(admin)
        revisions = read_revisions(admin)
        _dump(stack, folder / DUMP, snapshot, tables=len(rows), progress=progress)
        parts = admin.execute(_PARTS).fetchall()
    source = blob_folder(stack.settings)
    damaged: set[str] = set()
    if source is not None:
        damaged = copy_parts(source, folder / "blobs", parts, progress)
    (folder / "secrets").mkdir(mode=0o700)
    for name in database_secrets():
        secrets.write_private(folder / "secrets" / name, (stack.settings.layout.secrets / name).read_bytes())
    return Manifest(
        format=FORMAT,
        guildhall=version("guildhall"),
        postgresql=str(postgresql),
        taken_at=str(taken_at),
        revisions=revisions,
        rows=rows,
        blobs="folder" if source is not None else stack.settings.blob_url,
        parts=len(parts),
        damaged_files=sorted(damaged),
        files={name: digest(folder / name) for name in (DUMP, *(f"secrets/{name}" for name in database_secrets()))},
    )


def _dump(stack: Suite, file: Path, snapshot: str, *, tables: int, progress: Progress) -> None:
    command = [stack.postgres.binary("pg_dump"), "--format=custom", "--verbose", f"--snapshot={snapshot}"]
    command += [f"--schema={service}" for service in SERVICES]
    command += [f"--file={file}", f"--dbname={stack.postgres.url('postgres', DATABASE)}"]
    run_client(stack, command, "dumping contents of table", "database", tables, progress)
    file.chmod(0o600)


def run_client(stack: Suite, command: list[str], counted: str, what: str, most: int, progress: Progress) -> None:
    """Run one of PostgreSQL's programs to its end, telling the progress by its lines. Raises `StackError`."""
    environment = {**inherited_environment(), "PGPASSWORD": stack.postgres.password_file.read_text()}
    lines: list[str] = []
    done = 0
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr or ():
            lines = [*lines[-20:], line.rstrip()]
            if counted in line:
                done += 1
                progress(what, done, most)
    if process.returncode != 0:
        raise StackError("\n".join([f"{Path(command[0]).name} failed (exit code {process.returncode})", *lines]))


def copy_parts(source: Path, target: Path, parts: list[tuple[str, int, bytes]], progress: Progress) -> set[str]:
    """Copy parts of files, each compared with the hash in its name; return the files of those that do not fit."""
    damaged = set()
    for number, (file_id, part, sha256) in enumerate(parts, 1):
        name = part_name(file_id, part, sha256)
        place = target / name
        try:
            content = (source / name).read_bytes()
        except OSError:
            content = b""
        if hashlib.sha256(content).digest() != sha256:
            damaged.add(file_id)
        else:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.write_bytes(content)
        progress("files", number, len(parts))
    return damaged


def part_name(file_id: str, number: int, sha256: bytes) -> str:
    """Where a part is in a store's folder: the key that messaging gives it (ADR 9)."""
    return f"{file_id}/{number}-{sha256.hex()}"


def list_parts(admin: psycopg.Connection) -> list[tuple[str, int, bytes]]:
    """The parts that the database knows: file, number, SHA-256."""
    return [(file_id, number, bytes(sha256)) for file_id, number, sha256 in admin.execute(_PARTS)]


def blob_folder(settings: Settings) -> Path | None:
    """The folder that the suite keeps files in; None if that is a bucket."""
    url = urlsplit(settings.blob_url)
    return Path(unquote(url.path)) / "blobs" if url.scheme == "file" else None


def record_store(settings: Settings) -> None:
    """Note in the data directory what GUILDHALL_BLOB_URL its suite is started with; nothing if it has its own folder.

    A backup made from a shell with another one would hold none of the files.
    """
    secrets.write_private(settings.layout.blob_url_file, settings.of_services.get("GUILDHALL_BLOB_URL", "").encode())


def _with_recorded_store(settings: Settings) -> Settings:
    try:
        recorded = settings.layout.blob_url_file.read_text()
    except FileNotFoundError:  # started by a release that noted nothing
        return settings
    others = {name: value for name, value in settings.of_services.items() if name != "GUILDHALL_BLOB_URL"}
    own = {"GUILDHALL_BLOB_URL": recorded} if recorded else {}
    return replace(settings, of_services={**others, **own})


def database_secrets() -> list[str]:
    """The secrets without which what is in the database cannot be read, or is worth nothing.

    Not the database's passwords, certificates and signing keys: a suite makes its own, and those signed tokens of
    five minutes.
    """
    services = [secrets.secret_key_file(Path(), service).name for service in SERVICES]
    return [*services, secrets.provider_keys_file(Path()).name, "development.key"]


def count_rows(admin: psycopg.Connection) -> dict[str, int]:
    """The rows of each table of the services, partitions apart."""
    tables = admin.execute(_TABLES, (list(SERVICES),)).fetchall()
    counted = {}
    for schema, table in tables:
        statement = sql.SQL("SELECT count(*) FROM ONLY {}.{}").format(sql.Identifier(schema), sql.Identifier(table))
        counted[f"{schema}.{table}"] = int(_one(admin, statement)[0])
    return counted


def read_revisions(admin: psycopg.Connection) -> dict[str, str]:
    """The migration that each schema is at; none for a schema that was never migrated."""
    found = {}
    for service in SERVICES:
        with contextlib.suppress(psycopg.errors.UndefinedTable), admin.transaction():
            table = sql.Identifier(service, "alembic_version")
            row = admin.execute(sql.SQL("SELECT version_num FROM {}").format(table)).fetchone()
            if row is not None:
                found[service] = str(row[0])
    return found


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextlib.contextmanager
def running_database(settings: Settings) -> Iterator[Suite]:
    """The suite with its PostgreSQL running: the one that runs, or one that is started for it and stopped after.

    Its files are looked for where it was last started with, whatever this process's own settings say.
    """
    settings = _with_recorded_store(settings)
    if runs.find_pid(settings.layout.data) is not None:
        # Not prepared: that would renew certificates behind the gateway's back.
        yield suite.assemble(settings)
        return
    if not settings.layout.postgres.exists():
        raise StackError(f"{settings.layout.data} holds no suite")
    lock = runs.RunLock(settings.layout.data)
    try:
        stack = suite.prepare(settings)
        with boot([stack.postgres.program()]):
            yield stack
    finally:
        shutil.rmtree(settings.layout.sockets, ignore_errors=True)
        lock.release()


def _one(admin: psycopg.Connection, statement: str | sql.Composed) -> tuple[str, ...]:
    row = admin.execute(statement).fetchone()
    if row is None:
        raise StackError("the database gave no answer")
    return tuple(row)
