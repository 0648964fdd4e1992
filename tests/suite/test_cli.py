"""`guildhall login`, `tail`, `upload` and their companions, as a person runs them on a suite that runs."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from guildhall.client import Client
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from guildhall.messaging.v1 import file_service_pb2 as files
from guildhall.messaging.v1 import file_service_pb2_grpc as files_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from deploy.remote import uploads
from deploy.remote.refusals import NoAnswerError
from deploy.stack import gateway, runs, secrets, tokens
from tests.suite.conftest import GUILDHALL, Running
from tests.support.backends import wait_until
from tests.support.terminals import reading


@dataclass
class Terminal:
    """Somebody before a terminal, with a home of their own; and their own client, to make things with."""

    running: Running
    email: str
    password: str
    client: Client
    workspace_id: str = ""
    channel_id: str = ""

    def guildhall(self, *arguments: str, given: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        """Runs a command, which must end with this exit code."""
        done = subprocess.run(
            [*GUILDHALL, *arguments],
            env=self.running.environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def login(self) -> None:
        self.guildhall("login", self.email, "--password-stdin", given=f"{self.password}\n")

    @property
    def sessions(self) -> Path:
        """The file in which sessions are kept."""
        return Path(self.running.environment["XDG_CONFIG_HOME"]) / "guildhall" / "sessions.json"

    async def settle(self) -> None:
        """Makes a workspace with a channel."""
        await self.client.sign_in(self.email, self.password)
        stub = self.client.stub(workspaces_rpc.WorkspaceServiceStub)
        made: Any = await self.client.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="Engines"))
        self.workspace_id = made.workspace.workspace_id
        request = conversations.CreateChannelRequest(
            workspace_id=self.workspace_id, name="general", visibility=conversations.VISIBILITY_PUBLIC
        )
        channel: Any = await self.client.call(
            self.client.stub(conversations_rpc.ConversationServiceStub).CreateChannel, request
        )
        self.channel_id = channel.conversation.conversation_id

    async def send(self, text: str) -> None:
        request = messages.SendMessageRequest(
            workspace_id=self.workspace_id, conversation_id=self.channel_id, text=text
        )
        await self.client.call(self.client.stub(messages_rpc.MessageServiceStub).SendMessage, request, seconds=60)

    async def whose(self, access_token: str) -> str:
        """The address of who calls with a token."""
        stub: Any = self.client.stub(users_rpc.UserServiceStub)
        metadata = (("authorization", f"Bearer {access_token}"),)
        answer = await stub.GetUser(users.GetUserRequest(), timeout=10, metadata=metadata)
        return str(answer.user.email)


@pytest.fixture
async def terminal(running: Running, tmp_path: Path) -> AsyncIterator[Terminal]:
    """Somebody who is signed up, and has not signed in at the terminal."""
    email = f"{uuid.uuid4().hex}@example.com"
    password = secrets.development_password(running.settings.layout.secrets, email)
    await asyncio.to_thread(tokens.fetch, running.gateway, running.settings.layout.mail, email, password)
    home = Running(running.settings, {**running.environment, "XDG_CONFIG_HOME": str(tmp_path / "config")})
    async with Client(running.gateway) as client:
        yield Terminal(home, email, password, client)


@pytest.fixture
async def settled(terminal: Terminal) -> Terminal:
    """Somebody who is signed in, with a workspace and a channel."""
    terminal.login()
    await terminal.settle()
    return terminal


async def test_a_session_is_kept_privately_used_by_other_commands_and_ended_by_logout(terminal: Terminal) -> None:
    told = terminal.guildhall("login", terminal.email, "--password-stdin", "-o", "json", given=f"{terminal.password}\n")

    answer = json.loads(told.stdout)
    assert (answer["gateway"], answer["email"]) == (f"http://{terminal.running.gateway}", terminal.email)
    assert terminal.sessions.stat().st_mode & 0o777 == 0o600
    assert terminal.sessions.parent.stat().st_mode & 0o777 == 0o700
    assert terminal.password not in terminal.sessions.read_text()
    first = terminal.guildhall("token").stdout.strip()
    assert await terminal.whose(first) == terminal.email
    assert json.loads(terminal.guildhall("token", "--output", "json").stdout)["access_token"] == first

    terminal.guildhall("logout")

    with pytest.raises(Exception, match="ended"):
        await terminal.whose(first)
    assert "guildhall login" in terminal.guildhall("token", code=3).stderr
    assert terminal.email not in terminal.sessions.read_text()


async def test_a_session_is_exchanged_when_its_token_is_about_to_end(terminal: Terminal) -> None:
    terminal.login()
    kept = json.loads(terminal.sessions.read_text())
    (session,) = kept["sessions"].values()
    session["access_token_ends_at"] = 0
    terminal.sessions.write_text(json.dumps(kept))

    token = terminal.guildhall("token").stdout.strip()

    assert token != session["access_token"]
    assert await terminal.whose(token) == terminal.email
    (after,) = json.loads(terminal.sessions.read_text())["sessions"].values()
    assert after["session_token"] != session["session_token"]


async def test_a_session_that_was_ended_elsewhere_is_told_with_what_to_do(settled: Terminal) -> None:
    token = settled.guildhall("token").stdout.strip()
    await end_session(settled, token)

    refused = settled.guildhall("tail", code=3)

    assert "has ended (SESSION_ENDED); guildhall login" in refused.stderr
    settled.guildhall("logout")


async def end_session(terminal: Terminal, access_token: str) -> None:
    """Signs out by another client."""
    from guildhall.identity.v1 import auth_service_pb2 as auth
    from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc

    stub: Any = terminal.client.stub(auth_rpc.AuthServiceStub)
    await stub.SignOut(auth.SignOutRequest(), timeout=10, metadata=(("authorization", f"Bearer {access_token}"),))


async def test_a_mailed_link_signs_in(terminal: Terminal) -> None:
    with reading(terminal.running.environment, "login", terminal.email, "--by-mail") as signing_in:
        assert "a mail is on its way" in await signing_in.told()
        token = await asyncio.to_thread(
            tokens.wait_for_token, terminal.running.settings.layout.mail, terminal.email, latest_mail(terminal)
        )
        assert signing_in.process.stdin is not None
        signing_in.process.stdin.write(f"http://{terminal.running.gateway}/sign-in?token={token}\n")
        signing_in.process.stdin.flush()
        assert f"as {terminal.email}" in await signing_in.line()
        assert await signing_in.ended() == 0
    assert await terminal.whose(terminal.guildhall("token").stdout.strip()) == terminal.email


def latest_mail(terminal: Terminal) -> float:
    """Just after the mail of the sign-up was written, which has a token too."""
    mails = terminal.running.settings.layout.mail.glob("*.eml")
    return max(path.stat().st_mtime for path in mails if terminal.email.encode() in path.read_bytes()) + 0.001


def test_what_goes_wrong_has_an_exit_code_and_says_what_to_do(terminal: Terminal) -> None:
    wrong = terminal.guildhall("login", terminal.email, "--password-stdin", given="not the password\n", code=3)
    assert "INVALID_CREDENTIALS" in wrong.stderr
    clear = terminal.guildhall("login", terminal.email, "--gateway", "http://guildhall.example", code=2)
    assert "https://guildhall.example" in clear.stderr
    assert "nobody is signed in; guildhall login" in terminal.guildhall("tail", code=3).stderr
    assert not terminal.sessions.exists()


def test_without_a_gateway_that_is_the_suite_of_the_data_directory_whatever_ports_the_shell_names(
    terminal: Terminal,
) -> None:
    elsewhere = Running(terminal.running.settings, {**terminal.running.environment, "GUILDHALL_PORT_OFFSET": "49000"})
    shell = Terminal(elsewhere, terminal.email, terminal.password, terminal.client)

    told = shell.guildhall("login", shell.email, "--password-stdin", given=f"{shell.password}\n")

    assert f"signed in at http://{terminal.running.gateway} " in told.stdout


def test_a_gateway_that_is_away_is_told_as_that(terminal: Terminal) -> None:
    away = terminal.guildhall(
        "login", terminal.email, "--password-stdin", "--gateway", "127.0.0.1:1", given="whatever\n", code=4
    )
    assert "no answer from http://127.0.0.1:1" in away.stderr
    assert "--gateway" in away.stderr


async def test_tail_tells_what_happens_and_goes_on_over_a_broken_stream(settled: Terminal) -> None:
    with reading(settled.running.environment, "tail", "--output", "json") as tail:
        assert "listening to workspace Engines" in await tail.told()
        await settled.send("first")
        event = json.loads(await tail.line())
        assert (event["messageCreated"]["text"], event["conversationId"]) == ("first", settled.channel_id)
        kill(settled.running, "messaging")
        await settled.send("second")
        assert json.loads(await tail.line())["messageCreated"]["text"] == "second"
        assert "goes on after a break" in await tail.told()
        tail.process.send_signal(signal.SIGINT)
        assert await tail.ended() == 130
        assert tail.rest() == []


def kill(running: Running, service: str) -> None:
    """kill -9; the supervisor starts it again."""
    os.kill(pid_of(running, service), signal.SIGKILL)


def pid_of(running: Running, service: str) -> int:
    """A service's process."""
    run = runs.find(running.settings.layout.data)
    assert run is not None
    (pid,) = (child.pid for child in run.children if child.name == service)
    assert pid
    return pid


async def test_tail_shows_lines_with_names_that_a_terminal_does_not_obey(settled: Terminal) -> None:
    await settled.send("before")
    await settled.send("red \x1b[31m alert\nsecond line \u202e")

    shown = settled.guildhall("tail", "-c", "general", "--last", "2", "--count", "2").stdout

    name = settled.email.partition("@")[0]
    assert [line.split("  ", 1)[1] for line in shown.splitlines()] == [
        f"general  {name}: before",
        f"general  {name}: red \ufffd[31m alert second line \ufffd",
    ]


async def test_a_command_that_cannot_tell_what_is_meant_lists_it(settled: Terminal) -> None:
    unknown = settled.guildhall("tail", "--conversation", "nowhere", code=1).stderr
    assert "no conversation that you see is 'nowhere'" in unknown
    assert f"{settled.channel_id}  general" in unknown
    first = settled.workspace_id
    await settled.settle()

    several = settled.guildhall("tail", code=1).stderr

    assert "--workspace" in several
    assert {f"{first}  Engines", f"{settled.workspace_id}  Engines"} <= {line.strip() for line in several.splitlines()}


async def test_upload_sends_a_file_and_goes_on_with_what_was_begun(settled: Terminal, tmp_path: Path) -> None:
    content = os.urandom(700_000)
    plan = tmp_path / "plan.pdf"
    plan.write_bytes(content)
    begun = await begin(settled, plan.name, content, 600_000)
    assert begun.received_bytes == 2 * 256 * 1024

    sent = json.loads(settled.guildhall("upload", str(plan), "--text", "The plan", "-o", "json").stdout)

    (file,) = sent["files"]
    assert (sent["text"], file["fileId"], file["state"]) == ("The plan", begun.file_id, "FILE_STATE_READY")
    assert await stored(settled, begun.file_id) == content
    again = settled.guildhall("upload", str(plan)).stdout
    assert "sent plan.pdf in message" in again
    assert sent["messageId"] not in again


async def test_an_upload_whose_message_got_no_answer_says_so_and_is_finished_by_another_try(
    settled: Terminal, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.pdf"
    plan.write_bytes(os.urandom(1000))
    halted = pid_of(settled.running, "messaging")

    async def send(progress: Callable[[int, int], None]) -> dict[str, Any]:
        here = {"workspace": settled.workspace_id, "conversation": settled.channel_id, "text": "The plan"}
        return await uploads.upload(settled.client, plan, progress=progress, **here)

    def halt_when_stored(done: int, size: int) -> None:
        if done == size:
            os.kill(halted, signal.SIGSTOP)

    try:
        with pytest.raises(NoAnswerError, match=r"plan\.pdf is stored, and whether its message was sent is not known"):
            await send(halt_when_stored)
    finally:
        os.kill(halted, signal.SIGCONT)
    admin_port = settled.running.settings.ports.envoy_admin
    await asyncio.to_thread(wait_until, lambda: gateway.is_ready(admin_port), "the gateway has found it again")
    sent = await send(lambda _done, _size: None)

    stub: Any = settled.client.stub(messages_rpc.MessageServiceStub)
    place = {"workspace_id": settled.workspace_id, "conversation_id": settled.channel_id}
    listed: Any = await settled.client.call(stub.ListMessages, messages.ListMessagesRequest(**place))
    assert [message.message_id for message in listed.messages if message.text == "The plan"] == [sent["messageId"]]
    stored_files = files.ListFilesRequest(**place)
    kept: Any = await settled.client.call(settled.client.stub(files_rpc.FileServiceStub).ListFiles, stored_files)
    assert [file.file_id for file in kept.files] == [file["fileId"] for file in sent["files"]]


async def begin(terminal: Terminal, name: str, content: bytes, count: int) -> files.File:
    """An upload that ends after so many bytes."""
    stub: Any = terminal.client.stub(files_rpc.FileServiceStub)
    request = files.CreateUploadRequest(
        workspace_id=terminal.workspace_id,
        conversation_id=terminal.channel_id,
        name=name,
        mime_type="application/pdf",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).digest(),
    )
    made: Any = await terminal.client.call(stub.CreateUpload, request)
    start = files.UploadStart(workspace_id=terminal.workspace_id, file_id=made.file.file_id)
    frames = [files.UploadFileRequest(start=start)]
    frames += [files.UploadFileRequest(data=content[at : min(at + 60_000, count)]) for at in range(0, count, 60_000)]
    await stub.UploadFile(iter(frames), timeout=30, metadata=await terminal.client.metadata())
    named = files.GetUploadRequest(workspace_id=terminal.workspace_id, file_id=made.file.file_id)
    answer: Any = await terminal.client.call(stub.GetUpload, named)
    file: files.File = answer.file
    return file


async def stored(terminal: Terminal, file_id: str) -> bytes:
    """What DownloadFile gives."""
    stub: Any = terminal.client.stub(files_rpc.FileServiceStub)
    request = files.DownloadFileRequest(workspace_id=terminal.workspace_id, file_id=file_id)
    frames = stub.DownloadFile(request, timeout=30, metadata=await terminal.client.metadata())
    return b"".join([frame.data async for frame in frames])


def test_status_and_events_are_told_to_programs_too(running: Running) -> None:
    status = json.loads(running.guildhall("status", "--output", "json").stdout)
    assert status["gateway"] == running.gateway
    health = {process["name"]: process["health"] for process in status["processes"]}
    assert {name: health[name] for name in ("identity", "guest")} == {"identity": "SERVING", "guest": "SERVING"}
    assert isinstance(json.loads(running.guildhall("events", "list", "--output", "json").stdout), list)
    assert running.guildhall("status", "--output", "yaml").returncode == 2


def test_a_shell_can_complete_commands_and_options(running: Running) -> None:
    def completed(words: str, position: int) -> set[str]:
        asked = {"_GUILDHALL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
        done = subprocess.run(GUILDHALL, env={**running.environment, **asked}, capture_output=True, text=True)
        return set(done.stdout.split())

    assert completed("guildhall lo", 1) == {"login", "logout"}
    assert "--conversation" in completed("guildhall tail --co", 2)
    assert completed("guildhall doctor --output j", 3) == {"json"}
    shown = running.guildhall("--show-completion", "bash", seconds=120).stdout
    assert "_GUILDHALL_COMPLETE=complete_bash" in shown
