"""clients/python against a suite as a user starts it."""

import asyncio
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import uuid
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.client import Client, Conflict, InvalidRequest, NotFound, NotSignedIn, Unavailable, uploads
from guildhall.guest.v1 import guest_invite_service_pb2 as invites
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as invites_rpc
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
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

from deploy.stack import runs, secrets
from tests.suite.conftest import Running

CLIENT = Path(__file__).parents[2] / "clients" / "python"
LIFE_SECONDS = 300
"""Of an access token."""


class Desk:
    """A client that is signed in, with a workspace and a channel."""

    def __init__(self, running: Running, client: Client, email: str, password: str) -> None:
        self.running, self.client = running, client
        self.email, self.password = email, password
        self.workspace_id = self.conversation_id = ""

    async def settle(self) -> None:
        await self.client.sign_in(self.email, self.password)
        stub = self.client.stub(workspaces_rpc.WorkspaceServiceStub)
        made: Any = await self.client.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="desk"))
        self.workspace_id = made.workspace.workspace_id
        self.conversation_id = await self.channel("desk")

    async def channel(self, name: str) -> str:
        stub = self.client.stub(conversations_rpc.ConversationServiceStub)
        request = conversations.CreateChannelRequest(
            workspace_id=self.workspace_id, name=name, visibility=conversations.VISIBILITY_PUBLIC
        )
        made: Any = await self.client.call(stub.CreateChannel, request)
        return str(made.conversation.conversation_id)

    async def send(self, text: str, *, client_message_id: str = "", seconds: float = 30) -> messages.Message:
        stub = self.client.stub(messages_rpc.MessageServiceStub)
        request = messages.SendMessageRequest(
            workspace_id=self.workspace_id,
            conversation_id=self.conversation_id,
            client_message_id=client_message_id,
            text=text,
        )
        sent: Any = await self.client.call(stub.SendMessage, request, seconds=seconds)
        message: messages.Message = sent.message
        return message

    def kill(self, service: str) -> None:
        """kill -9; the supervisor starts it again."""
        run = runs.find(self.running.settings.layout.data)
        assert run is not None
        (pid,) = (child.pid for child in run.children if child.name == service)
        assert pid
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def desk(running: Running) -> AsyncIterator[Desk]:
    email = f"{uuid.uuid4().hex}@example.com"
    running.token(email)
    password = secrets.development_password(running.settings.layout.secrets, email)
    async with Client(running.gateway) as client:
        made = Desk(running, client, email, password)
        await made.settle()
        yield made


async def test_a_refusal_says_what_and_why(desk: Desk) -> None:
    stub = desk.client.stub(workspaces_rpc.WorkspaceServiceStub)
    with pytest.raises(NotFound) as unknown:
        await desk.client.call(stub.GetWorkspace, workspaces.GetWorkspaceRequest(workspace_id=str(uuid.uuid4())))
    assert (unknown.value.code, unknown.value.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    with pytest.raises(InvalidRequest) as wrong:
        await desk.client.call(stub.GetWorkspace, workspaces.GetWorkspaceRequest(workspace_id="no id"))
    assert (wrong.value.reason, list(wrong.value.fields)) == ("INVALID_REQUEST", ["workspace_id"])
    with pytest.raises(NotSignedIn) as refused:
        await desk.client.sign_in(desk.email, "not the password")
    assert refused.value.reason == "INVALID_CREDENTIALS"


async def test_a_message_of_the_same_id_with_another_text_is_a_conflict_and_with_the_same_is_there(desk: Desk) -> None:
    key = str(uuid.uuid4())
    sent = await desk.send("once", client_message_id=key)
    assert (await desk.send("once", client_message_id=key)).message_id == sent.message_id
    with pytest.raises(Conflict) as other:
        await desk.send("another", client_message_id=key)
    assert other.value.reason == "IDEMPOTENCY_MISMATCH"


async def test_pages_come_as_one_list(desk: Desk) -> None:
    for number in range(7):
        await desk.send(f"{number}")
    stub = desk.client.stub(messages_rpc.MessageServiceStub)
    request = messages.ListMessagesRequest(
        workspace_id=desk.workspace_id, conversation_id=desk.conversation_id, page_size=2
    )
    pages = desk.client.pages(stub.ListMessages, request, lambda page: page.messages)
    listed = [message.text async for message in pages]
    assert listed == [f"{number}" for number in reversed(range(7))]
    assert request.page_token == ""


async def test_tokens_are_renewed_before_they_end_and_the_session_goes_on_elsewhere(
    running: Running, desk: Desk
) -> None:
    tokens: list[str] = []

    async def keep(token: str) -> None:
        tokens.append(token)

    get = users.GetUserRequest()
    async with Client(running.gateway, early_seconds=LIFE_SECONDS) as hasty:
        await hasty.sign_in(desk.email, desk.password, kept=keep)
        stub = hasty.stub(users_rpc.UserServiceStub)
        # Each call finds the token about to end; those made at the same time use one successor, not one each.
        await asyncio.gather(*(hasty.call(stub.GetUser, get) for _ in range(8)))
        await hasty.call(stub.GetUser, get)
    assert len(set(tokens)) == len(tokens) >= 3
    async with Client(running.gateway) as later:
        later.resume(tokens[-1], kept=keep)
        again: Any = await later.call(later.stub(users_rpc.UserServiceStub).GetUser, get)
        assert again.user.email == desk.email
        await later.call(later.stub(auth_rpc.AuthServiceStub).SignOut, auth.SignOutRequest())
        with pytest.raises(NotSignedIn) as ended:
            await later.call(later.stub(users_rpc.UserServiceStub).GetUser, get)
        assert ended.value.reason == "SESSION_ENDED"


async def test_events_and_sends_go_on_over_a_service_that_is_killed(desk: Desk) -> None:
    heard: list[int] = []
    opened = asyncio.Event()

    async def listen() -> None:
        async for event in desk.client.events(desk.workspace_id):
            if event.WhichOneof("payload") == "message_created":
                heard.append(event.event_seq)
                opened.set()

    listening = asyncio.create_task(listen())
    first = await desk.send("first")
    while not opened.is_set():
        # Until the stream stands: what was sent before it is not its to tell.
        first = await desk.send("first")
        await asyncio.sleep(0.05)
    begun = heard[0]
    sent = [first.event_seq]
    for number in range(30):
        if number == 10:
            desk.kill("messaging")
        sent.append((await desk.send(f"{number}")).event_seq)
    async with asyncio.timeout(30):
        while not heard or heard[-1] < sent[-1]:  # noqa: ASYNC110 - the stream sets no event of ours
            await asyncio.sleep(0.02)
    listening.cancel()
    assert heard == list(range(begun, sent[-1] + 1))


async def test_an_upload_goes_on_over_a_service_that_is_killed(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "engine.bin"
    path.write_bytes(os.urandom(12 << 20))
    told: list[int] = []

    def progress(sent: int, total: int) -> None:
        assert total == 12 << 20
        told.append(sent)
        if sent >= 6 << 20 and max(told) == sent and not killed:
            killed.append(sent)
            desk.kill("messaging")

    killed: list[int] = []
    file = await desk.client.upload(desk.workspace_id, desk.conversation_id, path, progress=progress)

    assert (file.state, file.name) == (files.FILE_STATE_READY, "engine.bin")
    assert file.sha256 == hashlib.sha256(path.read_bytes()).digest()
    # It went on behind what had arrived, not from the beginning.
    fallen_back = [after for before, after in itertools.pairwise(told) if after < before]
    assert killed
    assert fallen_back
    assert min(fallen_back) > 0
    assert told[-1] == 12 << 20


async def test_a_complete_file_is_given_out_again_only_to_who_asks_for_that(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "engine.txt"
    path.write_text("It weaves algebraical patterns.")
    first, second = [await desk.client.upload(desk.workspace_id, desk.conversation_id, path) for _ in range(2)]
    assert first.file_id != second.file_id

    again = await desk.client.upload(desk.workspace_id, desk.conversation_id, path, reuse=True)

    assert (again.state, again.file_id) == (files.FILE_STATE_READY, second.file_id)


async def test_an_upload_is_gone_on_with_once_nobody_is_at_it_any_more(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "engine.bin"
    path.write_bytes(os.urandom(12 << 20))
    begun = asyncio.Event()

    def hold(sent: int, _total: int) -> None:
        if sent >= 1 << 20:
            begun.set()

    first = asyncio.create_task(desk.client.upload(desk.workspace_id, desk.conversation_id, path, progress=hold))
    await begun.wait()
    own = await desk.client.upload(desk.workspace_id, desk.conversation_id, path)
    assert (await first).file_id != own.file_id

    begun.clear()
    given_up = asyncio.create_task(desk.client.upload(desk.workspace_id, desk.conversation_id, path, progress=hold))
    await begun.wait()
    given_up.cancel()
    await asyncio.wait([given_up])
    stub = desk.client.stub(files_rpc.FileServiceStub)
    listing = files.ListFilesRequest(workspace_id=desk.workspace_id, conversation_id=desk.conversation_id)
    listed: Any = await desk.client.call(stub.ListFiles, listing)
    (left,) = [file.file_id for file in listed.files if file.state != files.FILE_STATE_READY]

    assert (await desk.client.upload(desk.workspace_id, desk.conversation_id, path)).file_id == left


async def test_a_begun_upload_is_found_behind_a_page_of_others(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_PAGE_FILES", 1)
    path, others = tmp_path / "engine.txt", [tmp_path / "notes.txt", tmp_path / "cards.txt"]
    for each in (path, *others):
        each.write_text(each.name)
    first, *_ = [await desk.client.upload(desk.workspace_id, desk.conversation_id, each) for each in (path, *others)]
    again = await desk.client.upload(desk.workspace_id, desk.conversation_id, path, reuse=True)
    assert again.file_id == first.file_id


async def test_a_moderator_goes_on_with_no_upload_of_somebody_elses(desk: Desk, tmp_path: Path) -> None:
    path, guest_email = tmp_path / "engine.txt", f"{uuid.uuid4().hex}@example.com"
    path.write_text("It weaves algebraical patterns.")
    stub = desk.client.stub(invites_rpc.GuestInviteServiceStub)
    request = invites.CreateGuestInviteRequest(
        workspace_id=desk.workspace_id, conversation_ids=[desk.conversation_id], guest_ttl=Duration(seconds=3600)
    )
    invite: Any = await desk.client.call(stub.CreateGuestInvite, request)
    desk.running.token(guest_email)
    password = secrets.development_password(desk.running.settings.layout.secrets, guest_email)
    async with Client(desk.running.gateway) as guest:
        await guest.sign_in(guest_email, password)
        redeem = guest.stub(invites_rpc.GuestInviteServiceStub).RedeemGuestInvite
        await guest.call(redeem, invites.RedeemGuestInviteRequest(token=invite.token))
        theirs = await guest.upload(desk.workspace_id, desk.conversation_id, path)
    own = await desk.client.upload(desk.workspace_id, desk.conversation_id, path, reuse=True)
    assert own.file_id != theirs.file_id


async def test_an_upload_that_is_refused_says_why(desk: Desk, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(InvalidRequest) as refused:
        await desk.client.upload(desk.workspace_id, desk.conversation_id, empty)
    assert list(refused.value.fields) == ["size_bytes"]
    with pytest.raises(NotFound):
        await desk.client.upload(desk.workspace_id, str(uuid.uuid4()), Path(__file__))


async def test_events_wait_for_a_token_that_cannot_be_renewed_yet(running: Running, desk: Desk) -> None:
    tokens = iter([False, True])

    async def renew() -> tuple[str, Timestamp]:
        if not next(tokens):
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
        metadata = await desk.client.metadata()
        ends = Timestamp()
        ends.FromSeconds(4_000_000_000)
        return metadata[0][1].removeprefix("Bearer "), ends

    async with Client(running.gateway) as other:
        other.use_tokens(renew)
        opened = asyncio.Event()
        listening = asyncio.create_task(
            anext(other.events(desk.workspace_id, opened=lambda positions: opened.set()))  # type: ignore[arg-type]
        )
        async with asyncio.timeout(20):
            await opened.wait()
            await desk.send("heard")
            assert (await listening).message_created.text == "heard"


class Tokens:
    """The desk's token for each call, but where it is said that one comes which no gateway takes."""

    def __init__(self, desk: Desk, *are_good: bool, rest: bool) -> None:
        self._client = desk.client
        self._are_good = itertools.chain(are_good, itertools.repeat(rest))

    async def renew(self) -> tuple[str, Timestamp]:
        metadata = await self._client.metadata()
        good = metadata[0][1].removeprefix("Bearer ")
        # It has ended at once, so that the next call asks for the next one.
        return good if next(self._are_good) else f"{good}x", Timestamp()


async def _hears(client: Client, desk: Desk, _path: Path) -> None:
    positions = {desk.conversation_id: 0}
    async with aclosing(client.events(desk.workspace_id, positions=positions)) as stream:
        async for event in stream:
            assert event.conversation_id == desk.conversation_id
            return


async def _uploads(client: Client, desk: Desk, path: Path) -> None:
    file = await client.upload(desk.workspace_id, desk.conversation_id, path)
    assert file.state == files.FILE_STATE_READY


@pytest.mark.parametrize(("stream", "before"), [(_hears, []), (_uploads, [True, True])])
async def test_a_token_that_a_stream_is_refused_for_is_answered_once_with_another(
    stream: Callable[[Client, Desk, Path], Awaitable[None]],
    before: list[bool],
    running: Running,
    desk: Desk,
    tmp_path: Path,
) -> None:
    path = tmp_path / "engine.txt"
    path.write_text("It weaves algebraical patterns.")
    await desk.send("heard")
    once, always = Tokens(desk, *before, False, rest=True), Tokens(desk, *before, rest=False)

    async with Client(running.gateway) as other, asyncio.timeout(30):
        other.use_tokens(once.renew)
        await stream(other, desk, path)
        other.use_tokens(always.renew)
        with pytest.raises(NotSignedIn) as refused:
            # Another name, so that nothing that was begun is there to be gone on with.
            await stream(other, desk, path.rename(tmp_path / "again.txt"))
        assert refused.value.reason == "UNAUTHENTICATED"


async def test_events_begin_where_they_are_told_to(desk: Desk) -> None:
    sent = [await desk.send(f"{number}") for number in range(5)]
    heard = []
    positions = {desk.conversation_id: sent[1].event_seq}
    async with asyncio.timeout(20):
        async for event in desk.client.events(desk.workspace_id, positions=positions):
            heard.append(event.message_created.text)
            if len(heard) == 3:
                break
    assert heard == ["2", "3", "4"]


async def test_events_of_a_workspace_of_others_are_not_found(desk: Desk) -> None:
    with pytest.raises(NotFound):
        async for _ in desk.client.events(str(uuid.uuid4())):
            pass


async def test_a_gateway_that_is_away_is_told_when_the_calls_time_is_over() -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(Unavailable):
            await client.call(client.stub(users_rpc.UserServiceStub).GetUser, users.GetUserRequest(), seconds=0.5)


def test_the_client_is_a_distribution_without_the_services(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    done = subprocess.run([*command, str(CLIENT)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("guildhall_client-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    folders = {"/".join(name.split("/")[:2]) for name in names if not name.startswith("guildhall_client-")}
    packages = {"client", "events", "guest", "identity", "membership", "messaging", "options"}
    assert folders == {*(f"guildhall/{package}" for package in packages), "buf/validate"}
    assert "guildhall/client/py.typed" in names
