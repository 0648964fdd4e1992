"""`guildhall backup` and `restore` on real suites: what was there is there again, and nothing that came after."""

import hashlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from guildhall.messaging.v1 import event_service_pb2 as events
from guildhall.messaging.v1 import event_service_pb2_grpc as events_rpc
from guildhall.messaging.v1 import file_service_pb2 as files
from guildhall.messaging.v1 import file_service_pb2_grpc as files_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from deploy.stack import backups, restores, secrets, suite
from tests.suite.conftest import Running, booted, new_folder
from tests.support.backends import wait_until

ADA, EVE = "ada.backup@example.com", "eve.backup@example.com"
CONTENT = os.urandom(3 * (256 << 10) + 1000)


class Client:
    """A person who calls a suite through its gateway."""

    def __init__(self, running: Running, email: str) -> None:
        self._channel = grpc.insecure_channel(running.gateway, options=[("grpc.enable_http_proxy", 0)])
        self._auth = auth_rpc.AuthServiceStub(self._channel)
        self.place = conversations.Conversation()
        self.access_token = self.session_token = ""
        running.token(email)
        password = secrets.development_password(running.settings.layout.secrets, email)
        self.take(self._auth.SignIn(auth.SignInRequest(email=email, password=password), timeout=10).tokens)

    def take(self, tokens: auth.SessionTokens) -> None:
        """Goes on with these tokens."""
        self.access_token, self.session_token = tokens.access_token, tokens.session_token

    def refresh(self) -> None:
        """Exchanges the session's token."""
        self.take(
            self._auth.RefreshSession(auth.RefreshSessionRequest(session_token=self.session_token), timeout=10).tokens
        )

    def moved(self, running: Running) -> None:
        """Goes on at another suite, with what it has."""
        self._channel.close()
        self._channel = grpc.insecure_channel(running.gateway, options=[("grpc.enable_http_proxy", 0)])
        self._auth = auth_rpc.AuthServiceStub(self._channel)

    def call(self, stub: Any, method: str, request: Any, *, seconds: float = 10) -> Any:
        """Calls a method of a generated stub."""
        metadata = (("authorization", f"Bearer {self.access_token}"),)
        return getattr(stub(self._channel), method)(request, timeout=seconds, metadata=metadata)

    def make_channel(self) -> None:
        """A workspace with a channel, where the rest takes place."""
        made = self.call(
            workspaces_rpc.WorkspaceServiceStub, "CreateWorkspace", workspaces.CreateWorkspaceRequest(name="Backup")
        )
        request = conversations.CreateChannelRequest(
            workspace_id=made.workspace.workspace_id, name="all", visibility=conversations.VISIBILITY_PUBLIC
        )
        self.place = self.call(conversations_rpc.ConversationServiceStub, "CreateChannel", request).conversation

    @property
    def where(self) -> dict[str, str]:
        """The ids that every request about the channel has."""
        return {"workspace_id": self.place.workspace_id, "conversation_id": self.place.conversation_id}

    def send(self, text: str, *file_ids: str) -> messages.Message:
        """Sends a message."""
        request = messages.SendMessageRequest(
            **self.where, client_message_id=str(uuid.uuid4()), text=text, file_ids=file_ids
        )
        return self.call(messages_rpc.MessageServiceStub, "SendMessage", request).message

    def texts(self) -> list[str]:
        """All texts of the channel, oldest first."""
        request = messages.ListMessagesRequest(**self.where, page_size=200)
        listed = self.call(messages_rpc.MessageServiceStub, "ListMessages", request).messages
        return [message.text for message in sorted(listed, key=lambda message: message.seq)]

    def upload(self, content: bytes) -> str:
        """Uploads a file, and returns its id."""
        request = files.CreateUploadRequest(
            **self.where,
            name="a.bin",
            mime_type="application/octet-stream",
            size_bytes=len(content),
            sha256=hashlib.sha256(content).digest(),
        )
        made = self.call(files_rpc.FileServiceStub, "CreateUpload", request).file
        start = files.UploadStart(workspace_id=self.place.workspace_id, file_id=made.file_id, offset=0)
        parts = [content[at : at + (256 << 10)] for at in range(0, len(content), 256 << 10)]
        frames = [files.UploadFileRequest(start=start), *(files.UploadFileRequest(data=part) for part in parts)]
        self.call(files_rpc.FileServiceStub, "UploadFile", iter(frames), seconds=30)
        return str(made.file_id)

    def download(self, file_id: str) -> bytes:
        """A file's bytes."""
        request = files.DownloadFileRequest(workspace_id=self.place.workspace_id, file_id=file_id)
        return b"".join(
            frame.data for frame in self.call(files_rpc.FileServiceStub, "DownloadFile", request, seconds=30)
        )

    def delete(self, file_id: str) -> None:
        """Deletes a file."""
        request = files.DeleteFileRequest(workspace_id=self.place.workspace_id, file_id=file_id)
        self.call(files_rpc.FileServiceStub, "DeleteFile", request)

    def resume(self, event_seq: int) -> events.Event:
        """The first event of a stream that resumes after a number."""
        position = events.Position(conversation_id=self.place.conversation_id, event_seq=event_seq)
        request = events.SubscribeRequest(workspace_id=self.place.workspace_id, positions=[position])
        stream = self.call(events_rpc.EventServiceStub, "Subscribe", request, seconds=20)
        try:
            for frame in stream:
                for event in frame.events.events:
                    return event
        finally:
            stream.cancel()
        raise AssertionError("the stream ended")


def ran(done: subprocess.CompletedProcess[str], code: int = 0) -> str:
    """What a command said; it must have ended with this code."""
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with new_folder("backup") as made:
        yield made


class Told:
    """One story, played once: what was there before the backup, and what came after."""

    def __init__(self, running: Running, folder: Path) -> None:
        self.backup = folder / "backup"
        self.ada = Client(running, ADA)
        self.ada.make_channel()
        self.kept, self.deleted_later = self.ada.upload(CONTENT), self.ada.upload(b"short")
        self.ada.send("with files", self.kept, self.deleted_later)
        for number in range(4):
            self.ada.send(f"before {number}")
        self.before = self.ada.texts()
        self.said = ran(running.guildhall("backup", str(self.backup), seconds=120))
        for number in range(3):
            self.seen = self.ada.send(f"after {number}").event_seq
        self.ada.delete(self.deleted_later)
        self.later = self.ada.upload(b"uploaded after")
        self.again = running.guildhall("backup", str(self.backup))
        other = Running(running.settings, {**running.environment, "GUILDHALL_BLOB_URL": "s3://elsewhere"})
        target = folder / "from another shell"
        ran(other.guildhall("backup", str(target), seconds=120))
        self.in_another_shell = backups.read_manifest(target)
        self.in_another_shell_copied = len(list((target / "blobs").glob("*/*")))
        running.token(EVE)
        self.back_up_while_a_file_is_deleted(running)

    def back_up_while_a_file_is_deleted(self, running: Running) -> None:
        """Makes another backup; a file is deleted after its snapshot was taken, and before its bytes are copied."""
        file_id = self.ada.upload(CONTENT)
        self.ada.send("not for long", file_id)
        blobs = running.settings.layout.blobs / "blobs" / file_id
        worker_log = running.settings.layout.logs / "messaging-worker.log"
        tried = worker_log.read_text().count("file.remove_blobs")
        self.deleted_meanwhile = False

        def delete_meanwhile(what: str, _done: int, _most: int) -> None:
            if what != "database" or self.deleted_meanwhile:
                return
            self.deleted_meanwhile = True
            self.ada.delete(file_id)
            # The worker has either put the work off, or done it.
            wait_until(
                lambda: worker_log.read_text().count("file.remove_blobs") > tried or not blobs.exists(), "it has looked"
            )

        target = self.backup.with_name("meanwhile")
        self.meanwhile = backups.write(suite.assemble(running.settings), target, delete_meanwhile)
        wait_until(lambda: not blobs.exists(), "the bytes are removed once the backup is made", seconds=60)


@pytest.fixture(scope="module")
def told(folder: Path) -> Told:
    with booted(folder / "first") as running:
        return Told(running, folder)


@pytest.fixture(scope="module")
def restored(told: Told, folder: Path) -> Iterator[Running]:
    with booted(folder / "second", up=False) as running:
        ran(running.guildhall("restore", str(told.backup), seconds=120))
        ran(running.guildhall("up", "--detach", seconds=180))
        told.ada.moved(running)
        yield running


def test_a_backup_says_what_it_holds_and_overwrites_nothing(told: Told) -> None:
    manifest = backups.read_manifest(told.backup)
    assert manifest.parts == 5
    assert manifest.rows["identity.users"] == 1
    assert sum(rows for table, rows in manifest.rows.items() if table.startswith("messaging.messages")) == 5
    assert set(manifest.revisions) == {"identity", "membership", "guest", "messaging"}
    assert "5 parts" in told.said
    assert told.again.returncode == 1
    assert "not overwritten" in told.again.stderr
    assert not told.backup.with_name("backup.partial").exists()
    assert all(file.stat().st_mode & 0o077 == 0 for file in (told.backup, *told.backup.glob("*")))


def test_the_session_goes_on_by_its_own_token_and_the_access_token_of_before_is_refused(
    told: Told, restored: Running
) -> None:
    # First of those that call: it is what an app does that was signed in all the time.
    old_key = jwt.get_unverified_header(told.ada.access_token)["kid"]
    with pytest.raises(grpc.RpcError) as refusal:
        told.ada.texts()
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED

    told.ada.refresh()

    assert jwt.get_unverified_header(told.ada.access_token)["kid"] != old_key
    assert told.ada.texts() == told.before


def test_everything_from_before_is_there_and_nothing_after(told: Told, restored: Running) -> None:
    if "second" not in str(restored.settings.layout.data):
        raise AssertionError("asked the suite that was backed up")
    assert told.ada.texts() == told.before
    assert told.ada.download(told.kept) == CONTENT
    assert told.ada.download(told.deleted_later) == b"short"
    with pytest.raises(grpc.RpcError) as refusal:
        told.ada.download(told.later)
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    assert not list(restored.settings.layout.blobs.glob(f"blobs/{told.later}*"))
    listed = ran(restored.guildhall("admin", "export-user", EVE), code=1)
    assert "Nobody has that address" in listed


def test_a_stream_from_after_the_restored_point_is_reset_though_its_numbers_are_given_out_again(
    told: Told, restored: Running
) -> None:
    sent = [told.ada.send(f"anew {number}").event_seq for number in range(10)]
    # Without a gap the client would be told the last of them, and never of those before.
    event = told.ada.resume(told.seen)
    assert event.WhichOneof("payload") == "reset"
    assert event.reset.event_seq < sent[0]
    assert told.ada.resume(sent[0] - 1).message_created.text == "anew 0"
    seqs = len(told.before)
    assert told.ada.send("numbered without a hole").seq == seqs + 11


def test_what_is_new_is_found_by_searching_after_a_restore(told: Told, restored: Running) -> None:
    word = f"w{uuid.uuid4().hex[:10]}"
    told.ada.send(f"find {word}")
    request = messages.SearchMessagesRequest(workspace_id=told.ada.place.workspace_id, query=word)
    wait_until(
        lambda: bool(told.ada.call(messages_rpc.MessageServiceStub, "SearchMessages", request).messages),
        "the message is found",
    )


def test_secrets_that_the_data_needs_come_along_and_the_others_are_new(
    told: Told, restored: Running, folder: Path
) -> None:
    first, second = folder / "first", restored.settings.layout.data
    for name in backups.database_secrets():
        assert (first / "secrets" / name).read_bytes() == (second / "secrets" / name).read_bytes()
    new = ["secrets/identity.database-password", "secrets/postgres.database-password", "certs/ca.pem"]
    for name in new:
        assert (first / name).read_bytes() != (second / name).read_bytes()
    assert not {file.name for file in (first / "keys").iterdir()} & {file.name for file in (second / "keys").iterdir()}
    contents = b"".join(file.read_bytes() for file in told.backup.rglob("*") if file.is_file())
    for name in new:
        assert (first / name).read_bytes() not in contents


def test_a_restore_overwrites_nothing(told: Told, restored: Running) -> None:
    assert "not overwritten" in ran(restored.guildhall("restore", str(told.backup)), code=1)
    assert told.ada.texts()[: len(told.before)] == told.before


def test_a_damaged_backup_is_refused_and_named_and_leaves_nothing(told: Told, folder: Path) -> None:
    damaged = folder / "damaged"
    shutil.copytree(told.backup, damaged)
    part = next((damaged / "blobs" / told.kept).glob("2-*"))
    content = bytearray(part.read_bytes())
    content[7] ^= 1
    part.write_bytes(content)
    dump = (damaged / "database.dump").read_bytes()
    (damaged / "database.dump").write_bytes(dump[:-1])
    next((damaged / "blobs" / told.deleted_later).iterdir()).unlink()
    with booted(folder / "third", up=False) as running:
        assert "verified" in ran(running.guildhall("restore", "--verify-only", str(told.backup)))
        for arguments in (["--verify-only"], []):
            said = ran(running.guildhall("restore", *arguments, str(damaged)), code=1)
            assert part.name in said
            assert "database.dump is damaged" in said
            assert "4 parts of files are there, of 5" in said
        assert not list(folder.glob("third*"))


def test_a_backup_of_a_later_release_is_refused(told: Told, folder: Path) -> None:
    later = folder / "later"
    shutil.copytree(told.backup, later)
    manifest = json.loads((later / "manifest.json").read_text())
    manifest["revisions"]["guest"] = "9999"
    (later / "manifest.json").write_text(json.dumps(manifest))
    with booted(folder / "fourth", up=False) as running:
        assert "9999, which this release does not know" in ran(running.guildhall("restore", str(later)), code=1)


def test_files_that_are_in_a_backup_are_not_dropped_for_a_bucket(told: Told, folder: Path) -> None:
    with booted(folder / "eighth", up=False, GUILDHALL_BLOB_URL="s3://elsewhere") as running:
        said = ran(running.guildhall("restore", str(told.backup)), code=1)
        assert "GUILDHALL_BLOB_URL is s3://elsewhere" in said
        assert "restore without it" in said
        assert not list(folder.glob("eighth*"))


def test_a_backup_without_files_is_restored_beside_their_bucket_only(told: Told, folder: Path) -> None:
    bare = folder / "bare"
    shutil.copytree(told.backup, bare)
    shutil.rmtree(bare / "blobs")
    manifest = json.loads((bare / "manifest.json").read_text())
    (bare / "manifest.json").write_text(json.dumps({**manifest, "blobs": "s3://ours"}))
    with booted(folder / "ninth", up=False) as running:
        for url in ("", "s3://elsewhere", "file:///tmp"):
            given = {**running.environment, **({"GUILDHALL_BLOB_URL": url} if url else {})}
            said = ran(Running(running.settings, given).guildhall("restore", str(bare)), code=1)
            assert "restore with GUILDHALL_BLOB_URL=s3://ours" in said
        assert not list(folder.glob("ninth*"))
        beside = Running(running.settings, {**running.environment, "GUILDHALL_BLOB_URL": "s3://ours"})
        ran(beside.guildhall("restore", str(bare), seconds=120))

        # From now on it is known where they are, also to a shell that says nothing of it.
        assert "s3://ours" in ran(running.guildhall("backup", str(folder / "bare again"), seconds=120))
        assert backups.read_manifest(folder / "bare again").blobs == "s3://ours"


def test_a_backup_looks_for_files_where_the_suite_keeps_them_and_not_where_the_shell_says(told: Told) -> None:
    assert "5 parts" in told.said
    assert told.in_another_shell.blobs == "folder"
    assert told.in_another_shell.parts == told.in_another_shell_copied > 0


def test_sessions_end_where_the_operator_says_so(told: Told, folder: Path) -> None:
    with booted(folder / "fifth", up=False) as running:
        ran(running.guildhall("restore", "--end-sessions", str(told.backup), seconds=120))
        with backups.running_database(running.settings) as stack, stack.admin_database() as admin:
            ended = "SELECT count(*) > 0 AND bool_and(ended_at IS NOT NULL) FROM identity.sessions"
            assert admin.execute(ended).fetchone() == (True,)


def test_a_suite_that_does_not_run_is_backed_up_as_it_is(told: Told, folder: Path) -> None:
    with booted(folder / "seventh", up=False) as running:
        assert "holds no suite" in ran(running.guildhall("backup", str(folder / "nothing")), code=1)
        ran(running.guildhall("restore", str(told.backup), seconds=120))
        ran(running.guildhall("backup", str(folder / "stopped"), seconds=120))
        assert backups.read_manifest(folder / "stopped").rows == backups.read_manifest(told.backup).rows
        assert running.guildhall("status").returncode == 1


def test_files_that_are_deleted_while_a_backup_is_made_are_in_it_and_go_afterwards(told: Told) -> None:
    assert told.deleted_meanwhile
    assert (told.meanwhile.parts, told.meanwhile.damaged_files) == (5 + 4 - 1 + 1, [])
    assert restores.verify(told.backup.with_name("meanwhile"), lambda *_: None) == told.meanwhile
