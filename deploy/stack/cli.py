"""The `guildhall` command: the embedded suite on one machine."""

import dataclasses
import os
import select
import signal
import sys
import time
from datetime import timedelta
from typing import Annotated

try:
    import typer
    from rich.console import Console
    from rich.table import Table
except ImportError:
    raise SystemExit("the guildhall command needs the stack extra: pip install 'guildhall[stack]'") from None

from deploy.stack import health, processes, runs, secrets, services, suite, supervisor, up
from deploy.stack.settings import Settings, StackError, load

_DOWN_SECONDS = 90  # longer than all stages of a stop may take together

app = typer.Typer(help="Guildhall's suite on one machine.", no_args_is_help=True, add_completion=False)
console = Console()
errors = Console(stderr=True)


@app.command("up")
def up_command(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it is ready; it runs on.")] = False,
    replicas: Annotated[int, typer.Option(help="Processes per service, 1 to 9.")] = 1,
) -> None:
    """Start PostgreSQL, Valkey, the services, their workers and the gateway."""
    settings = load(os.environ, replicas=replicas)
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
def status() -> None:
    """Show the processes of the suite; exit code 1 if it does not run."""
    run = _require_run(load(os.environ))
    table = Table("process", "state", "pid", "restarts", "since", "health")
    for child in run.children:
        answer = health.health(child.health_port) if child.health_port and child.pid else ""
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
    settings = load(os.environ)
    if runs.find_pid(settings.layout.data) is None:
        try:
            with up.supervised(settings, console, only_migrations=True):
                console.print("migrated")
        except supervisor.Interrupted:
            raise typer.Exit(130) from None
        return
    stack = suite.prepare(settings)
    migrations = services.migrations(settings, postgres=stack.postgres, valkey=stack.valkey)
    supervisor.boot([dataclasses.replace(migration, after=()) for migration in migrations])
    console.print("migrated")


@app.command()
def token(
    email: Annotated[str, typer.Argument(help="Who signs in; signed up and verified first if unknown.")],
    password: Annotated[str | None, typer.Option(help="Only for a user signed up by other means.")] = None,
) -> None:
    """Print an access token for a user (development only): it lasts five minutes."""
    from deploy.stack import tokens

    settings = load(os.environ)
    run = _require_run(settings)
    chosen = password or secrets.development_password(settings.layout.secrets, email)
    print(tokens.fetch(run.gateway_address, settings.layout.mail, email, chosen))


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
def admin(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="COMMAND ...", help="--help lists them.")] = None,
) -> None:
    """Do what an operator does at the machine: administrators, service accounts, a person's data."""
    given = arguments or ["--help"]
    environment: dict[str, str] = {}
    if not {"-h", "--help"} & set(given):
        settings = load(os.environ)
        _require_run(settings)
        stack = suite.prepare(settings)
        environment = services.environment(settings, "identity", postgres=stack.postgres, valkey=stack.valkey)
    raise typer.Exit(processes.run([sys.executable, "-m", "services.identity", "admin", *given], environment))


def _require_run(settings: Settings) -> runs.Run:
    run = runs.find(settings.layout.data)
    if run is None:
        raise StackError(f"nothing runs on {settings.layout.data}; `guildhall up` starts it")
    return run


def main() -> None:
    """Run a command. What it could not do is told in words on stderr: exit code 2 for settings, else 1."""
    try:
        app()
    except StackError as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        # A full disk, a folder of another user: what the system says about which file is all there is to say.
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
