"""The `guildhall` command: the embedded suite on one machine, and a person at any gateway (`deploy.remote`)."""

import dataclasses
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

try:
    import typer
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TaskID
    from rich.table import Table
except ImportError:
    raise SystemExit("the guildhall command needs the stack extra: pip install 'guildhall[stack]'") from None

from deploy.remote import commands as remote
from deploy.stack import health, processes, runs, secrets, services, suite, supervisor, up
from deploy.stack.outputs import Output, OutputOption, print_json
from deploy.stack.settings import Settings, SettingsError, StackError, load

_DOWN_SECONDS = 150  # longer than all stages of a stop may take together

app = typer.Typer(
    help="Guildhall's suite on one machine, and you at any gateway.",
    epilog="Exit codes: 0 done, 1 could not be done, 2 not understood, 3 sign in first, 4 no answer, 130 Ctrl-C.",
    no_args_is_help=True,
)
rotate = typer.Typer(help="Change keys, certificates and passwords while the suite runs.", no_args_is_help=True)
events = typer.Typer(help="What could not be delivered or done in twenty tries.", no_args_is_help=True)
app.add_typer(remote.app)
app.add_typer(rotate, name="rotate")
app.add_typer(events, name="events")
console = Console()
errors = Console(stderr=True)


@app.command("up")
def up_command(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it is ready; it runs on.")] = False,
    replicas: Annotated[int, typer.Option(help="Processes per service, 1 to 9.")] = 1,
) -> None:
    """Start PostgreSQL, Valkey, the services, their workers and the gateway."""
    settings = load(os.environ, replicas=replicas, only_known=True)
    run = up.run_detached if detach else up.run
    raise typer.Exit(run(settings, console))


@app.command()
def down() -> None:
    """Stop the suite of this data directory and wait until it has ended."""
    settings = load(os.environ)
    pid = runs.find_pid(settings.layout.data)
    if pid is None:
        console.print(f"nothing runs on {settings.layout.data}", highlight=False)
        return
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        with console.status(f"stopping pid {pid}"):
            if not select.select([process], [], [], _DOWN_SECONDS)[0]:
                raise StackError(f"pid {pid} has not ended within {_DOWN_SECONDS} s")
    finally:
        os.close(process)
    console.print("stopped")


@app.command()
def status(output: OutputOption = Output.TEXT) -> None:
    """Show the processes of the suite; exit code 1 if it does not run."""
    run = _require_run(load(os.environ))
    asked = [
        (child, health.health(child.health_port) if child.health_port and child.pid else "") for child in run.children
    ]
    if output is Output.JSON:
        found = [{**dataclasses.asdict(child), "health": answer} for child, answer in asked]
        print_json({"gateway": run.gateway_address, "pid": run.pid, "ready": run.ready, "processes": found})
        return
    table = Table("process", "state", "pid", "restarts", "since", "health")
    for child, answer in asked:
        since = timedelta(seconds=int(time.time() - child.started_at)) if child.pid else ""
        table.add_row(child.name, child.state, str(child.pid or ""), str(child.restarts), str(since), answer)
    console.print(f"gateway {run.gateway_address}, pid {run.pid}, {'ready' if run.ready else 'starting'}")
    console.print(table)


@app.command()
def demo() -> None:
    """Play the suite's main story in a stack of its own; exit code 0 only if every step held."""
    from deploy.stack import demo as demonstration

    raise typer.Exit(0 if demonstration.run(console) else 1)


@app.command()
def migrate() -> None:
    """Migrate every service's schema, in the running stack or with a PostgreSQL started for it."""
    settings = _settings()
    if runs.find_pid(settings.layout.data) is None:
        try:
            with up.supervised(settings, console, only_migrations=True):
                console.print("migrated")
        except supervisor.Interrupted:
            raise typer.Exit(130) from None
        return
    stack = suite.assemble(settings)
    migrations = services.migrations(settings, postgres=stack.postgres, valkey=stack.valkey)
    supervisor.boot([dataclasses.replace(migration, after=()) for migration in migrations])
    console.print("migrated")


@app.command()
def token(
    email: Annotated[str, typer.Argument(help="A developer's way in: who signs in, signed up first if unknown.")] = "",
    password: Annotated[str | None, typer.Option(help="Only for a user signed up by other means.")] = None,
    gateway: remote.GatewayOption = "",
    ca_file: remote.CaFileOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Print an access token, good for minutes: of who is signed in (`login`), or of anybody on this machine's suite."""
    if email and gateway:
        raise SettingsError(["EMAIL is for this machine's suite, and --gateway for who has signed in: guildhall login"])
    if not email:
        session = remote.kept_session(gateway, ca_file)
        access_token, ends_at = session.access_token, session.access_token_ends_at
    else:
        from deploy.stack import tokens

        settings = _settings()
        run = _require_run(settings)
        chosen = password or secrets.development_password(settings.layout.secrets, email)
        access_token, ends_at = tokens.fetch(run.gateway_address, settings.layout.mail, email, chosen)
    if output is Output.JSON:
        print_json({"access_token": access_token, "expires_at": datetime.fromtimestamp(ends_at, UTC).isoformat()})
    else:
        print(access_token)


@app.command()
def doctor(
    output: OutputOption = Output.TEXT,
    least_free_gib: Annotated[float, typer.Option(help="Less room on the data's disk is a failure.")] = 2.0,
) -> None:
    """Check the running suite, a line per check; exit code 0 only if nothing failed."""
    from deploy.stack.doctor import visits

    findings = visits.visit(_settings(), least_free_gib=least_free_gib)
    raise typer.Exit(0 if visits.report(findings, console, as_json=output is Output.JSON) else 1)


@app.command()
def backup(folder: Annotated[Path, typer.Argument(help="Where to; it must not exist yet, or be empty.")]) -> None:
    """Write the four schemas, as of one moment, and the files to a folder; the suite may run meanwhile."""
    from deploy.stack import backups

    with backups.running_database(_settings()) as stack, _progress() as progress:
        manifest = backups.write(stack, folder, progress)
    console.print(f"backed up as of {manifest.taken_at}: {sum(manifest.rows.values())} rows, {manifest.parts} parts")
    if manifest.blobs != "folder":
        console.print(f"The files are in {manifest.blobs} and not in the backup: keep that bucket's versions.")
    if manifest.damaged_files:
        raise StackError(f"the store had lost bytes of these files before: {', '.join(manifest.damaged_files)}")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="What `guildhall backup` made.")],
    verify_only: Annotated[bool, typer.Option("--verify-only", help="Compare its hashes; restore nothing.")] = False,
    end_sessions: Annotated[
        bool, typer.Option("--end-sessions", help="Everybody signs in again: sessions that ended since then too.")
    ] = False,
) -> None:
    """Make a data directory, which must not exist yet or be empty, of a backup. Then: guildhall up."""
    from deploy.stack import restores

    with _progress() as progress:
        if verify_only:
            manifest = restores.verify(folder, progress)
        else:
            manifest = restores.restore(load(os.environ), folder, progress, end_sessions=end_sessions)
    console.print(f"{'verified' if verify_only else 'restored'}, as of {manifest.taken_at}", highlight=False)


@rotate.command("signing-key")
def rotate_signing_key() -> None:
    """Add a key for access tokens, which signs in ten minutes, and remove those that no token needs any more."""
    for command in ("retire-signing-keys", "rotate-signing-key"):
        if (code := _run_admin([command])) != 0:
            raise typer.Exit(code)


@rotate.command("certificates")
def rotate_certificates(
    ca: Annotated[bool, typer.Option("--ca", help="A new CA as well; takes a good minute.")] = False,
) -> None:
    """Issue every certificate anew."""
    from deploy.stack import rotations

    stack = _running_suite()
    with console.status("waiting until nothing uses the older ones") as waiting:
        waiting.stop()

        def settle(seconds: float) -> None:
            waiting.start()
            time.sleep(seconds)
            waiting.stop()

        names = rotations.rotate_certificates(stack, with_ca=ca, settle=settle)
    console.print(f"issued: {', '.join(names)}")


@rotate.command("database-passwords")
def rotate_database_passwords() -> None:
    """Give every database role a new password."""
    from deploy.stack import rotations

    roles = rotations.database_passwords(_running_suite())
    console.print(f"changed: {', '.join(roles)}")


@events.command("list")
def list_events(output: OutputOption = Output.TEXT) -> None:
    """List them, each with whom it is for or from."""
    from deploy.stack import dead_events

    with _running_suite().admin_database() as admin:
        found = dead_events.find(admin)
    if output is Output.JSON:
        print_json([dataclasses.asdict(event) for event in found])
        return
    for event in found:
        print(event.id, event.service, event.table, event.kind, event.peer, event.since)


@events.command("retry")
def retry_events(
    ids: Annotated[list[str] | None, typer.Argument(help="As listed.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are listed.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Have some tried again, as often as new ones."""
    from deploy.stack import dead_events

    if not ids and not everything:
        raise StackError("name events by their ids, or say --all")
    with _running_suite().admin_database() as admin:
        count = dead_events.retry(admin, ids or [], everything=everything)
    if output is Output.JSON:
        print_json({"tried_again": count})
    else:
        console.print(f"{count} tried again")


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
def admin(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="COMMAND ...", help="--help lists them.")] = None,
) -> None:
    """Do what an operator does at the machine: administrators, service accounts, a person's data."""
    raise typer.Exit(_run_admin(arguments or ["--help"]))


def _run_admin(arguments: list[str]) -> int:
    environment: dict[str, str] = {}
    if not {"-h", "--help"} & set(arguments):
        settings = _settings()
        _require_run(settings)
        # Not prepared: that would renew certificates behind the gateway's back.
        stack = suite.assemble(settings)
        environment = services.environment(settings, "identity", postgres=stack.postgres, valkey=stack.valkey)
    return processes.run([sys.executable, "-m", "services.identity", "admin", *arguments], environment)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each part of the work."""
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=errors) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, most: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=most)

        yield tell


def _running_suite() -> suite.Suite:
    settings = _settings()
    _require_run(settings)
    return suite.assemble(settings)


def _settings() -> Settings:
    """Those of this process, with the ports of the suite that runs on their data directory."""
    return runs.as_running(load(os.environ))


def _require_run(settings: Settings) -> runs.Run:
    run = runs.find(settings.layout.data)
    if run is None:
        raise StackError(f"nothing runs on {settings.layout.data}; `guildhall up` starts it")
    return run


def main() -> None:
    """Run a command. What it could not do is told in words on stderr, with an exit code (see the help's last line)."""
    try:
        # By its name however it was started: completion asks by it.
        app(prog_name="guildhall")
    except StackError as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        # A full disk, a folder of another user: what the system says about which file is all there is to say.
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
