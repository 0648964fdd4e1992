"""`guildhall login`, `logout`, `tail` and `upload`: what a person does at a gateway from a terminal."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from deploy.remote.settings import Gateway, given_gateway, parse_gateway, sessions_folder
from deploy.remote.texts import plain
from deploy.stack import runs
from deploy.stack.outputs import Output, OutputOption, print_json
from deploy.stack.settings import SettingsError, load

if TYPE_CHECKING:
    from deploy.remote.sessions import Session

GatewayOption = Annotated[
    str, typer.Option("--gateway", metavar="HOST:PORT", help="Also GUILDHALL_GATEWAY. TLS, unless it is this machine.")
]
CaFileOption = Annotated[
    str, typer.Option("--ca-file", metavar="FILE", help="Also GUILDHALL_GATEWAY_CA_FILE. In place of the system's CAs.")
]
WorkspaceOption = Annotated[
    str, typer.Option("--workspace", "-w", help="Its id or name; not needed if it is the only one.")
]
ConversationOption = Annotated[str, typer.Option("--conversation", "-c", help="Its id or name.")]

app = typer.Typer()
errors = Console(stderr=True)


@app.command()
def login(
    email: Annotated[str, typer.Argument(help="Asked for if it is missing.")] = "",
    by_mail: Annotated[bool, typer.Option("--by-mail", help="By a link that is mailed, without a password.")] = False,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    gateway: GatewayOption = "",
    ca_file: CaFileOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Sign in at a gateway, by default that of this machine's suite; the session is kept for the other commands."""
    from deploy.remote import sign_ins
    from deploy.remote.sessions import Sessions

    if by_mail and password_stdin:
        raise SettingsError(["--by-mail and --password-stdin exclude each other"])
    where = given_gateway(os.environ, gateway=gateway, ca_file=ca_file)
    where = where or parse_gateway(runs.as_running(load(os.environ)).gateway_address, ca_file=ca_file)
    sessions = Sessions(sessions_folder(os.environ))
    email = email or typer.prompt("E-mail", err=True)
    if by_mail:
        work = sign_ins.sign_in_by_mail(where, sessions, email, _ask_for_token)
    else:
        password = sys.stdin.readline().rstrip("\n") if password_stdin else _ask_for_password()
        work = sign_ins.sign_in(where, sessions, email, password)
    user, session = asyncio.run(work)
    if output is Output.JSON:
        ends = session.absolute_expire_time.ToJsonString()
        print_json({"gateway": where.url, "user_id": user.user_id, "email": user.email, "session_ends_at": ends})
    else:
        print(f"signed in at {where.url} as {user.email}; guildhall logout ends it")


@app.command()
def logout(gateway: GatewayOption = "", ca_file: CaFileOption = "") -> None:
    """End the session and forget it."""
    from deploy.remote import sign_ins
    from deploy.remote.sessions import Sessions

    where = _where(gateway, ca_file)
    asyncio.run(sign_ins.sign_out(where, Sessions(sessions_folder(os.environ))))
    print(f"signed out at {where.url}")


@app.command()
def tail(
    workspace: WorkspaceOption = "",
    conversation: ConversationOption = "",
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many lines.")] = None,
    last: Annotated[int, typer.Option(min=0, help="Begin with the last events of each conversation.")] = 0,
    gateway: GatewayOption = "",
    ca_file: CaFileOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what happens in a workspace, a line per event, until Ctrl-C (exit code 130); goes on over broken streams."""
    from deploy.remote import sign_ins, tails
    from deploy.remote.sessions import Sessions

    where = _where(gateway, ca_file)

    async def run() -> None:
        async with sign_ins.signed_in(where, Sessions(sessions_folder(os.environ))) as client:
            await tails.tail(
                client,
                workspace=workspace,
                conversation=conversation,
                count=count,
                last=last,
                as_json=output is Output.JSON,
                show=lambda line: print(line, flush=True),
                tell=lambda line: print(line, file=sys.stderr, flush=True),
            )

    asyncio.run(run())


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)],
    workspace: WorkspaceOption = "",
    conversation: ConversationOption = "",
    text: Annotated[str, typer.Option("--text", "-t", help="What the message says; else the file's name.")] = "",
    gateway: GatewayOption = "",
    ca_file: CaFileOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Send a file to a conversation. Run again after a break in the upload, it goes on where it was."""
    from deploy.remote import sign_ins, uploads
    from deploy.remote.sessions import Sessions

    where = _where(gateway, ca_file)

    async def run() -> dict[str, object]:
        async with sign_ins.signed_in(where, Sessions(sessions_folder(os.environ))) as client:
            with _bar(file.name) as progress:
                return await uploads.upload(
                    client, file, workspace=workspace, conversation=conversation, text=text, progress=progress
                )

    message = asyncio.run(run())
    if output is Output.JSON:
        print_json(message)
    else:
        print(f"sent {file.name} in message {message['messageId']}")


def kept_session(gateway: str, ca_file: str) -> "Session":
    """The session at the gateway that is named, or where somebody signed in last, with a good access token."""
    from deploy.remote import sign_ins
    from deploy.remote.sessions import Sessions

    where = _where(gateway, ca_file)
    return asyncio.run(sign_ins.access_token(where, Sessions(sessions_folder(os.environ))))


def _where(gateway: str, ca_file: str) -> Gateway:
    """The gateway that is named, or else where somebody signed in last. Raises `SignInFirstError`."""
    from deploy.remote.refusals import SignInFirstError
    from deploy.remote.sessions import Sessions

    named = given_gateway(os.environ, gateway=gateway, ca_file=ca_file)
    session = Sessions(sessions_folder(os.environ)).find(named)
    if session is None:
        raise SignInFirstError(f"nobody is signed in{f' at {named.url}' if named else ''}; guildhall login")
    # As it was signed in at, unless the command line knows better.
    return named if named and named.ca_file else session.gateway


def _ask_for_password() -> str:
    answer: str = typer.prompt("Password", hide_input=True, err=True)
    return answer


def _ask_for_token() -> str:
    print("If the address is known, a mail is on its way to it.", file=sys.stderr)
    answer: str = typer.prompt("Its link, or the token in it", err=True)
    return answer


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; nothing elsewhere."""
    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn(""), *columns, console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task(escape(plain(name)), total=None)
        yield lambda sent, total: bar.update(task, completed=sent, total=total)
