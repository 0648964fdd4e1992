"""Certificates, their authority and the database's passwords change under running services: no call is lost by it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from deploy.stack import certificates, rotations
from deploy.stack.settings import SERVICES
from deploy.stack.suite import Suite as Stack
from services.chassis import peer_channel
from services.chassis.channel import open_channel
from services.chassis.settings import ServeSettings
from services.chassis.tls import channel_credentials, server_credentials
from tests.support.backends import Processes, running_backends
from tests.support.forks import Forks
from tests.support.suite import Person, Suite, answered


@pytest.fixture(scope="module")
def own_backends(forks: Forks) -> Iterator[Stack]:
    """Servers of this module's own: what is rotated here would be missed by the other tests."""
    with running_backends(Processes(forks.spawn)) as stack:
        yield stack


@pytest.fixture(autouse=True)
def _look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_channel, "LOOK_SECONDS", 0.0)


class Door:
    """A peer that says which certificate it was shown, on a port of its own."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()
        self.port = 0

    async def open(self) -> grpc.aio.Server:
        """Starts, on the same port as before."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(getattr(self, f"_{name.lower()}")) for name in ("Who", "Slow")
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Door", handlers),))
        self.port = server.add_secure_port(f"127.0.0.1:{self.port}", server_credentials(self._settings))
        await server.start()
        return server

    async def _who(self, _request: bytes, context: Any) -> bytes:
        return bytes(context.auth_context()["x509_pem_cert"][0])

    async def _slow(self, request: bytes, context: Any) -> bytes:
        self.entered.set()
        await self.leave.wait()
        return await self._who(request, context)


class Doorway:
    """The door of "identity", the channel of "membership" to it, and their certificates in a folder."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.folder = folder
        certificates.ensure(folder)
        self._suite = Suite(stack)
        self.door = Door(self.settings("identity"))

    def settings(self, service: str) -> ServeSettings:
        """A service's settings, with the certificates of the folder."""
        files = certificates.files(self.folder, service)
        changes = {"tls_cert_file": files.certificate, "tls_key_file": files.key, "tls_ca_file": files.ca}
        return self._suite.settings(service, identity_address=f"127.0.0.1:{self.door_port}", **changes)

    @property
    def door_port(self) -> int:
        return self.door.port if hasattr(self, "door") else 1

    def certificate(self, name: str) -> bytes:
        return certificates.files(self.folder, name).certificate.read_bytes()


@asynccontextmanager
async def doorway(stack: Stack, folder: Path) -> AsyncIterator[tuple[Doorway, grpc.aio.Server, grpc.aio.Channel]]:
    """A door that is open, and a channel to it."""
    way = Doorway(stack, folder)
    server = await way.door.open()
    channel = open_channel(way.settings("membership"), "identity")
    try:
        yield way, server, channel
    finally:
        await channel.close()
        await server.stop(None)


async def who(channel: grpc.aio.Channel) -> bytes:
    """The certificate that a channel shows."""
    return bytes(await channel.unary_unary("/Door/Who")(b"", timeout=5))


async def test_the_next_call_shows_the_new_certificate_and_the_call_in_flight_is_not_cut(
    own_backends: Stack, tmp_path: Path
) -> None:
    async with doorway(own_backends, tmp_path) as (way, _server, channel):
        before = way.certificate("membership")
        rpc, slow = channel.unary_unary("/Door/Who"), channel.unary_unary("/Door/Slow")(b"", timeout=20)
        await asyncio.wait_for(way.door.entered.wait(), 5)
        assert await rpc(b"", timeout=5) == before

        certificates.renew(way.folder, ("membership",))

        assert way.certificate("membership") != before
        # The same stub's RPC, made before the renewal: services make theirs once.
        assert await rpc(b"", timeout=5) == way.certificate("membership")
        way.door.leave.set()
        assert await slow == before


async def test_a_certificate_without_its_key_changes_nothing_at_either_end(own_backends: Stack, tmp_path: Path) -> None:
    async with doorway(own_backends, tmp_path) as (way, _server, channel):
        before = way.certificate("membership")
        kept = {name: certificates.files(way.folder, name).key.read_bytes() for name in ("membership", "identity")}
        certificates.renew(way.folder, ("membership", "identity"))
        new_keys = {name: certificates.files(way.folder, name).key.read_bytes() for name in kept}
        for name, key in kept.items():
            certificates.files(way.folder, name).key.write_bytes(key)

        assert await who(channel) == before
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{way.door_port}",
            grpc.ssl_channel_credentials(
                certificates.files(way.folder, "membership").ca.read_bytes(), kept["membership"], before
            ),
            options=[("grpc.ssl_target_name_override", "identity"), ("grpc.enable_http_proxy", 0)],
        ) as another:
            assert await who(another) == before, "the server let go of the certificate that fits its key"

        for name, key in new_keys.items():
            certificates.files(way.folder, name).key.write_bytes(key)
        assert await who(channel) == way.certificate("membership")


async def test_who_follows_a_change_of_the_authority_connects_again_and_who_does_not_cannot(
    own_backends: Stack, tmp_path: Path
) -> None:
    async with doorway(own_backends, tmp_path) as (way, server, channel):
        options = [("grpc.ssl_target_name_override", "identity"), ("grpc.enable_http_proxy", 0)]
        credentials = channel_credentials(way.settings("membership"))
        async with grpc.aio.secure_channel(f"127.0.0.1:{way.door_port}", credentials, options=options) as unaware:
            await who(unaware)
            certificates.add_ca(way.folder)
            await who(channel)
            certificates.renew(way.folder)
            await who(channel)
            certificates.drop_older_cas(way.folder)
            await who(channel)
            await server.stop(None)
            again = await way.door.open()
            try:
                assert await answered(lambda: who(channel)) == way.certificate("membership")
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await who(unaware)
                assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
            finally:
                await again.stop(None)


class Load:
    """People who call all the time, each call of which must be answered."""

    def __init__(self, suite: Suite, person: Person, place: conversations.Conversation) -> None:
        self._suite, self._person, self._place = suite, person, place
        self.answers = 0
        self.messages = 0
        self._stopping = False

    async def read(self, *, again: bool) -> None:
        """Reads, and writes by transactions, of three services that ask each other."""
        stub = self._suite.stub
        while not self._stopping:
            await self._person.call(stub(users_rpc.UserServiceStub).GetUser, users.GetUserRequest())
            request = workspaces.CreateWorkspaceRequest(name="x", request_id=str(uuid.uuid4()))
            await self._write(stub(workspaces_rpc.WorkspaceServiceStub).CreateWorkspace, request, again=again)
            await self._person.call(
                stub(conversations_rpc.ConversationServiceStub).ListConversations,
                conversations.ListConversationsRequest(workspace_id=self._place.workspace_id),
            )
            self.answers += 3

    async def send(self, *, again: bool) -> None:
        """Sends messages."""
        stub = self._suite.stub(messages_rpc.MessageServiceStub)
        while not self._stopping:
            request = messages.SendMessageRequest(
                workspace_id=self._place.workspace_id,
                conversation_id=self._place.conversation_id,
                client_message_id=str(uuid.uuid4()),
                text="x",
            )
            await self._write(stub.SendMessage, request, again=again)
            self.messages += 1

    async def _write(self, rpc: Any, request: Any, *, again: bool) -> None:
        """Writes; `again` if one may be told that nobody knows whether it is written, as a client repeats it then."""
        if again:
            await answered(lambda: self._person.call(rpc, request))
        else:
            await self._person.call(rpc, request)

    async def more(self) -> None:
        """Waits for so many answers more that every service has been asked again."""
        answers, sent = self.answers + 30, self.messages + 30
        async with asyncio.timeout(60):
            while self.answers < answers or self.messages < sent:  # noqa: ASYNC110 - it is the load that is waited for
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self, *, again: bool = False) -> AsyncIterator["Load"]:
        """Calls until the end of the block; a call that fails fails it."""
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(self.read(again=again))
                group.create_task(self.send(again=again))
            try:
                await self.more()
                yield self
                await self.more()
            finally:
                self._stopping = True


@pytest.fixture
async def own_suite(own_backends: Stack) -> AsyncIterator[Suite]:
    suite = Suite(own_backends)
    await suite.start()
    try:
        yield suite
    finally:
        await suite.stop()


async def load_of(suite: Suite) -> Load:
    """Somebody with a channel."""
    person = await suite.person()
    made = await answered(
        lambda: person.call(
            suite.stub(workspaces_rpc.WorkspaceServiceStub).CreateWorkspace, workspaces.CreateWorkspaceRequest(name="x")
        )
    )
    channel = await answered(
        lambda: person.call(
            suite.stub(conversations_rpc.ConversationServiceStub).CreateChannel,
            conversations.CreateChannelRequest(
                workspace_id=made.workspace.workspace_id, name="x", visibility=conversations.VISIBILITY_PUBLIC
            ),
        )
    )
    return Load(suite, person, channel.conversation)


def presented(suite: Suite, service: str) -> Any:
    """The certificate that a service shows to who connects now."""
    import ssl

    folder = suite.stack.settings.layout.certificates
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(folder / "gateway.pem", folder / "gateway-key.pem")
    import socket

    address = ("127.0.0.1", suite.stack.settings.ports.service(service))
    with socket.create_connection(address, timeout=5) as plain:
        with context.wrap_socket(plain, server_hostname=service) as connection:
            shown = connection.getpeercert(binary_form=True)
            assert shown is not None
            return x509.load_der_x509_certificate(shown)


async def test_calls_go_on_while_every_certificate_and_their_authority_change(own_suite: Suite) -> None:
    load = await load_of(own_suite)
    folder = own_suite.stack.settings.layout.certificates
    before = {service: presented(own_suite, service).serial_number for service in SERVICES}
    loop = asyncio.get_running_loop()
    waited: list[float] = []

    def settle(seconds: float) -> None:
        """Lets the services be asked meanwhile; with LOOK_SECONDS at 0 they need no longer."""
        waited.append(seconds)
        asyncio.run_coroutine_threadsafe(load.more(), loop).result()

    async with load.running():
        await asyncio.to_thread(rotations.rotate_certificates, own_suite.stack, with_ca=True, settle=settle)
    assert waited == [rotations.SETTLED_SECONDS] * 2
    assert (folder / "ca.pem").read_text().count("BEGIN CERTIFICATE") == 1
    # Verified by the new authority alone, which only the new certificates are of.
    after = {service: await asyncio.to_thread(presented, own_suite, service) for service in SERVICES}
    for service in SERVICES:
        assert after[service].serial_number != before[service]
    # Whoever still trusts or shows what was before cannot connect to these two anew. The others, which ask them at each
    # call, have run all the time.
    for service in ("identity", "membership"):
        await own_suite.stop(service)
        await own_suite.start(service)
    for channel in own_suite._channels.values():
        await channel.close()
    own_suite._channels.clear()
    again = await load_of(own_suite)
    async with again.running():
        pass


@contextmanager
def superuser(stack: Stack) -> Iterator[Any]:
    with stack.admin_database() as admin:
        yield admin


async def test_calls_go_on_while_every_database_password_changes_and_connections_are_cut(own_suite: Suite) -> None:
    load = await load_of(own_suite)
    stack = own_suite.stack
    old = {service: _password(stack, service) for service in SERVICES}
    async with load.running(again=True):
        with superuser(stack) as admin:
            rotations.database_passwords(stack)
            await load.more()
            cut = admin.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = ANY(%s)",
                (list(SERVICES),),
            ).fetchone()
            assert cut[0] >= len(SERVICES), "nothing was connected"
    for service in SERVICES:
        assert _password(stack, service) != old[service]
        with own_suite.database(service) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def _password(stack: Stack, role: str) -> str:
    from deploy.stack import secrets

    return secrets.database_password_file(stack.settings.layout.secrets, role).read_text()
