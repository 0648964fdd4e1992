"""`guildhall restore`: a suite's data made anew from a backup, in a data directory that holds none."""

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path

import psycopg
from alembic.script import ScriptDirectory

from deploy.stack import backups, runs, secrets, suite
from deploy.stack.backups import DUMP, Manifest, Progress
from deploy.stack.processes import PROJECT
from deploy.stack.roles import DATABASE
from deploy.stack.settings import SERVICES, Layout, Settings, StackError
from deploy.stack.suite import Suite
from deploy.stack.supervisor import boot

EVENT_GAP = 1_000_000_000
AFTER_RESTORE = f"""
UPDATE messaging.conversations SET last_event_seq = last_event_seq + {EVENT_GAP};
"""
"""What turns a database back in time needs before its services start; docs/runbook.md has it for other databases.

Clients hold positions that were given out after the backup was made. New events under those numbers would be taken
for what they have seen; behind a gap, every such position is answered with a reset.
"""
END_SESSIONS = """
UPDATE identity.sessions SET ended_at = statement_timestamp(), ended_reason = 'revoked' WHERE ended_at IS NULL;
"""


def verify(folder: Path, progress: Progress) -> Manifest:
    """Compare everything in a backup with its hash. Raises `StackError` that names all that differs."""
    manifest = backups.read_manifest(folder)
    faults = []
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            faults.append(f"{name} is missing")
        elif backups.digest(file) != expected:
            faults.append(f"{name} is damaged")
    present = sorted((folder / "blobs").glob("*/*"))
    for number, part in enumerate(present, 1):
        if hashlib.sha256(part.read_bytes()).hexdigest() != part.name.partition("-")[2]:
            faults.append(f"blobs/{part.parent.name}/{part.name} is damaged")
        progress("verifying", number, len(present))
    whole = not manifest.damaged_files and manifest.blobs == "folder"
    if whole and len(present) != manifest.parts:
        faults.append(f"{len(present)} parts of files are there, of {manifest.parts}")
    if faults:
        raise StackError("\n".join([f"{folder} cannot be trusted:", *faults]))
    return manifest


def restore(settings: Settings, folder: Path, progress: Progress, *, end_sessions: bool = False) -> Manifest:
    """Verify a backup and make the data directory of it, which must not hold a suite yet. Whole, or not at all."""
    data = settings.layout.data
    if data.exists() and any(data.iterdir()):
        raise StackError(f"{data} holds data already, and is not overwritten; set GUILDHALL_DATA_DIR, or move it away")
    manifest = verify(folder, progress)
    _require_known(manifest)
    _require_store(settings, manifest)
    building = data.with_name(f"{data.name}.restoring")
    if runs.find_pid(building) is not None:
        raise StackError(f"a restore into {data} is going on")
    # What an interrupted one has left.
    shutil.rmtree(building, ignore_errors=True)
    apart = dataclasses.replace(settings, layout=Layout(building))
    os.umask(0o077)
    apart.layout.create()
    backups.record_store(apart)
    lock = runs.RunLock(building)
    try:
        for name in backups.database_secrets():
            secrets.write_private(apart.layout.secrets / name, (folder / "secrets" / name).read_bytes())
        stack = suite.prepare(apart)
        with boot([stack.postgres.program(set_up=stack.ensure_roles)]):
            _load(stack, folder, manifest, progress, end_sessions=end_sessions)
            _copy_blobs(stack, folder, manifest, progress)
        if data.exists():
            data.rmdir()
        (building / "run.lock").unlink()
        building.rename(data)
    finally:
        shutil.rmtree(apart.layout.sockets, ignore_errors=True)
        lock.release()
    return manifest


def _require_known(manifest: Manifest) -> None:
    for service in SERVICES:
        known = {script.revision for script in migrations_of(service).walk_revisions()}
        if (revision := manifest.revisions.get(service)) is not None and revision not in known:
            raise StackError(
                f"the backup's schema {service} is at {revision}, which this release does not know; "
                f"restore it with the release that made it ({manifest.guildhall}) or a later one"
            )


def _require_store(settings: Settings, manifest: Manifest) -> None:
    """The bytes that a backup holds go into a folder, and what it left in a bucket is nowhere else."""
    if manifest.blobs == "folder":
        if backups.blob_folder(settings) is None:
            raise StackError(
                f"the backup holds the files' bytes, and GUILDHALL_BLOB_URL is {settings.blob_url}, where they would "
                f"not be: restore without it. To have them in the bucket, copy {settings.layout.blobs} there after "
                "that (the key of each is its path in that folder), and only then start with GUILDHALL_BLOB_URL"
            )
    elif settings.blob_url != manifest.blobs:
        raise StackError(
            f"the files' bytes are in {manifest.blobs} and not in the backup: restore with "
            f"GUILDHALL_BLOB_URL={manifest.blobs}. If they have been moved, start with their new place afterwards"
        )


def migrations_of(service: str) -> ScriptDirectory:
    """The migrations of a service that this release knows."""
    return ScriptDirectory(str(PROJECT / "services" / service / "migrations"))


def _load(stack: Suite, folder: Path, manifest: Manifest, progress: Progress, *, end_sessions: bool) -> None:
    # The schemas are there, empty, from setting the roles up; the dump brings them with all their rights.
    command = [stack.postgres.binary("pg_restore"), "--clean", "--if-exists", "--single-transaction", "--verbose"]
    command += [f"--dbname={stack.postgres.url('postgres', DATABASE)}", str(folder / DUMP)]
    backups.run_client(stack, command, "processing data for table", "database", len(manifest.rows), progress)
    with stack.admin_database() as admin:
        _require_same(admin, manifest)
        with admin.transaction():
            admin.execute(AFTER_RESTORE)
            if end_sessions:
                admin.execute(END_SESSIONS)
        admin.execute("ANALYZE")


def _require_same(admin: psycopg.Connection, manifest: Manifest) -> None:
    rows = backups.count_rows(admin)
    if rows != manifest.rows:
        differing = sorted(set(rows.items()) ^ set(manifest.rows.items()))
        raise StackError(f"what was restored is not what was backed up: {differing}")


def _copy_blobs(stack: Suite, folder: Path, manifest: Manifest, progress: Progress) -> None:
    target = backups.blob_folder(stack.settings)
    if target is None:
        return
    with stack.admin_database() as admin:
        parts = backups.list_parts(admin)
    damaged = backups.copy_parts(folder / "blobs", target, parts, progress)
    if damaged - set(manifest.damaged_files):
        raise StackError(f"the bytes of files are missing in the backup: {sorted(damaged)}")
    os.sync()
