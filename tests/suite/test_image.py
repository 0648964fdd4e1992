"""The image: what is in it and what is not, and the whole suite run from it."""

import asyncio
import io
import json
import tomllib
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc
from rich.console import Console

from deploy.stack import story
from tests.support import containers
from tests.support.containers import BASE_IMAGE, IMAGE_USER, ROOT, docker, run_once
from tests.support.image_suite import ImageSuite, running_image_suite

MOST_OVER_BASE = 250 << 20
CALLERS = 8
LEAST_CALLS = 200
_INSTALLED = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"


@pytest.fixture(scope="module")
def image() -> str:
    """The image, built if it can be."""
    containers.require_engine()
    return containers.build()


@pytest.fixture(scope="module")
def suite(image: str) -> Iterator[ImageSuite]:
    """The whole suite from it."""
    with running_image_suite() as running:
        yield running


def inspected(image: str) -> Any:
    return json.loads(docker("image", "inspect", image))[0]


def test_the_image_says_what_it_is_and_is_small(image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = inspected(image)
    labels = {name.rpartition(".")[2]: value for name, value in found["Config"]["Labels"].items()}
    assert labels["title"] == "Guildhall"
    assert (labels["version"], labels["licenses"], labels["revision"]) == (
        project["version"],
        project["license"],
        "tested",
    )
    assert found["Size"] - inspected(BASE_IMAGE)["Size"] < MOST_OVER_BASE


def test_the_image_is_run_by_an_ordinary_user_who_can_write_nowhere(image: str) -> None:
    assert run_once(["id", "-u"]) == run_once(["id", "-g"]) == str(IMAGE_USER)
    written = "for d in / /opt/guildhall /run /var /usr; do touch $d/x 2>/dev/null && echo $d; done; true"
    assert run_once(["sh", "-c", written]) == ""
    # Not by the read-only root alone.
    assert docker("run", "--rm", image, "sh", "-c", written) == ""


def test_the_image_holds_what_is_locked_and_neither_a_compiler_nor_the_embedded_servers(image: str) -> None:
    locked = {
        line.partition("==")[0].lower().replace("_", "-"): line.partition("==")[2].partition(";")[0]
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line
    }
    python = "/opt/guildhall/bin/python"
    installed = dict(
        item.lower().replace("_", "-").split("==") for item in run_once([python, "-c", _INSTALLED]).split()
    )
    assert installed.pop("guildhall")
    assert {"grpcio", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-grpc"} <= set(installed)
    assert {name: version for name, version in installed.items() if locked.get(name) != version} == {}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    others = [requirement for name, extra in extras.items() if name != "traces" for requirement in extra]
    unwanted = {requirement.partition("==")[0].partition(">=")[0] for requirement in others}
    assert {name.partition("[")[0] for name in unwanted} & set(installed) == set()
    tools = "for t in gcc cc g++ make ld as; do command -v $t; done; true"
    assert run_once(["sh", "-c", tools]) == ""


def test_a_service_of_the_image_takes_a_collector_of_traces(image: str) -> None:
    place = "http://collector:4317"
    script = f"from services.chassis import settings, spans; spans.Spans('x', settings.traceable('{place}'), ratio=1)"

    run_once(["python", "-c", script], "--network=none")


def test_the_story_holds_on_the_image(suite: ImageSuite) -> None:
    for name in suite.containers.names():
        host = suite.containers.inspect(name)["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
    told = io.StringIO()
    held = story.play(suite.settings.gateway_address, suite.mail_folder, Console(file=told, width=160))
    assert held, told.getvalue()


class Senders:
    """People who send messages one after the other, and repeat none."""

    def __init__(self, suite: ImageSuite, channel: grpc.aio.Channel) -> None:
        self.sent: list[str] = []
        self.failed: list[str] = []
        self._suite = suite
        self._channel = channel
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Signs in as somebody of the story, and begins."""
        request = auth.SignInRequest(email="ada@example.com", password=story.PASSWORD)
        answer = await auth_rpc.AuthServiceStub(self._channel).SignIn(request, timeout=10)
        self._metadata = (("authorization", f"Bearer {answer.tokens.access_token}"),)
        made = await workspaces_rpc.WorkspaceServiceStub(self._channel).CreateWorkspace(
            workspaces.CreateWorkspaceRequest(name="stopped"), timeout=10, metadata=self._metadata
        )
        place = conversations.CreateChannelRequest(
            workspace_id=made.workspace.workspace_id, name="all", visibility=conversations.VISIBILITY_PUBLIC
        )
        channel = await conversations_rpc.ConversationServiceStub(self._channel).CreateChannel(
            place, timeout=10, metadata=self._metadata
        )
        self._place = {
            "workspace_id": channel.conversation.workspace_id,
            "conversation_id": channel.conversation.conversation_id,
        }
        self._tasks = [asyncio.create_task(self._send()) for _ in range(CALLERS)]

    async def stop(self) -> None:
        """Waits for the calls at hand."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def stored(self) -> set[str]:
        """The texts of every message that is there."""
        stub, texts, token = messages_rpc.MessageServiceStub(self._channel), set(), ""
        while True:
            request = messages.ListMessagesRequest(**self._place, page_size=200, page_token=token)
            page = await stub.ListMessages(request, timeout=10, metadata=self._metadata)
            texts |= {message.text for message in page.messages}
            if not (token := page.next_page_token):
                return texts

    async def _send(self) -> None:
        stub = messages_rpc.MessageServiceStub(self._channel)
        while not self._stopping:
            text = str(uuid.uuid4())
            request = messages.SendMessageRequest(**self._place, client_message_id=text, text=text)
            try:
                await stub.SendMessage(request, timeout=5, metadata=self._metadata)
                self.sent.append(text)
            except grpc.aio.AioRpcError as error:
                self.failed.append(f"{error.code().name}: {error.details()}")
            await asyncio.sleep(0.02)


async def test_stopping_a_replica_loses_no_call(suite: ImageSuite) -> None:
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(suite.settings.gateway_address, options=options) as channel:
        senders = Senders(suite, channel)
        await senders.start()
        ended = await asyncio.to_thread(suite.containers.stop, "messaging-2")
        await senders.stop()
        assert senders.failed == []
        assert len(senders.sent) >= LEAST_CALLS
        assert ended.exit_code == 0, ended.log
        assert await senders.stored() == set(senders.sent)


def test_every_role_ends_well_when_it_is_told_to(suite: ImageSuite) -> None:
    for name in suite.containers.names():
        if name not in ("envoy", "messaging-2"):
            ended = suite.containers.stop(name)
            assert ended.exit_code == 0, f"{name}: {ended.exit_code}\n{ended.log[-2000:]}"
