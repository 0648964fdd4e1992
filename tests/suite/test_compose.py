"""deploy/compose.yaml, brought up for real: the story is played, and everything ends well when it is told to."""

import http.client
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from rich.console import Console

from deploy.stack import story
from tests.support import containers, standins
from tests.support.backends import wait_until
from tests.support.containers import ROOT

FILE = ROOT / "deploy/compose.yaml"
DOCUMENT = ROOT / "docs/containers.md"
UP_SECONDS = 300


def compose_command() -> list[str]:
    """Compose, as a plugin of Docker or by itself."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    pytest.skip("Docker Compose is not installed here")


class Project:
    """One installation by the compose file, under a name and on ports of its own."""

    def __init__(self, command: list[str], folder: Path, image: str) -> None:
        self.port = _free_port()
        self.mail_folder = folder / "mail"
        self.mail_folder.mkdir()
        override = folder / "override.yaml"
        # The mails are read by the story, outside.
        options = {"type": "none", "o": "bind", "device": str(self.mail_folder)}
        override.write_text(yaml.safe_dump({"volumes": {"mail": {"driver": "local", "driver_opts": options}}}))
        name = f"guildhall-test-{uuid.uuid4().hex[:8]}"
        self._command = [*command, "--project-name", name, "--file", str(FILE), "--file", str(override)]
        self._environment = {
            **os.environ,
            "GUILDHALL_IMAGE": image,
            "GUILDHALL_PORT": str(self.port),
            "GUILDHALL_TLS_PORT": str(_free_port()),
            "GUILDHALL_PUBLIC_URL": f"http://127.0.0.1:{self.port}",
        }

    def tell(self, **variables: str) -> None:
        """Sets variables for whatever is brought up from now on."""
        self._environment |= variables

    def shell(self, script: str, folder: Path, *, seconds: float = 2 * UP_SECONDS) -> None:
        """Runs commands of the documentation on this project, in a folder."""
        ours = shlex.join([*self._command, "--profile", "admin"])
        told = script.replace("docker compose -f deploy/compose.yaml", ours)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", told],
            cwd=folder, env=self._environment, capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def use(self, **images: str) -> None:
        """Has other images run in place of those that the file names."""
        self._environment |= {f"{name.upper()}_IMAGE": image for name, image in images.items()}

    def run(self, *arguments: str, seconds: float = 60) -> str:
        """What Compose prints."""
        done = subprocess.run(
            [*self._command, *arguments], env=self._environment, capture_output=True, text=True, timeout=seconds
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self) -> None:
        """Brings everything up, or fails with what the containers have written."""
        try:
            self.run("up", "--no-build", "--detach", seconds=UP_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.run('logs', '--tail', '20')}") from None

    def containers(self) -> dict[str, Any]:
        """What Docker knows of each."""
        return {
            found["Config"]["Labels"]["com.docker.compose.service"]: found
            for found in json.loads(containers.docker("inspect", *self.run("ps", "--all", "--quiet").split()))
        }

    def sign_up(self, email: str) -> None:
        """Somebody signs up, who is sent a mail."""
        request = auth.SignUpRequest(email=email, password=story.PASSWORD, name="First", request_id=str(uuid.uuid4()))
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            auth_rpc.AuthServiceStub(channel).SignUp(request, timeout=10)

    def answers(self) -> bool:
        """Whether the gateway hands out identity's keys. Docker itself takes connections before it is there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/.well-known/jwks.json")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """An installation that is up."""
    command = compose_command()
    containers.require_engine()
    if os.getuid() != 0:
        pytest.skip("the mails that containers write are read by root only")
    image = containers.build()
    folder = Path(tempfile.mkdtemp(prefix="guildhall-compose-"))
    found = Project(command, folder, image)
    named = yaml.safe_load(FILE.read_text())["services"]
    found.use(
        postgresql=standins.postgresql(_default(named["postgresql"]["image"]), image),
        valkey=standins.valkey(_default(named["valkey"]["image"]), image),
        envoy=standins.envoy(_default(named["gateway"]["image"]), image),
    )
    try:
        found.up()
        wait_until(found.answers, "the gateway answers", seconds=60)
        found.sign_up("first@example.com")
        wait_until(lambda: any(found.mail_folder.glob("*.eml")), "a worker sends the first mail", seconds=90)
        yield found
    except TimeoutError as error:
        raise AssertionError(f"{error}\n{found.run('logs', '--tail', '20')}") from None
    finally:
        found.run("--profile", "admin", "down", "--volumes", "--timeout", "40", seconds=180)
        shutil.rmtree(folder, ignore_errors=True)


def _default(variable: str) -> str:
    return variable.removeprefix("${").partition(":-")[2].removesuffix("}")


def test_the_file_is_what_compose_understands(tmp_path: Path) -> None:
    project = Project(compose_command(), tmp_path, "guildhall:dev")
    known = json.loads(project.run("config", "--format", "json"))
    assert set(known["services"]) == set(yaml.safe_load(FILE.read_text())["services"]) - {"admin"}


def test_the_story_holds_in_compose(project: Project) -> None:
    told = io.StringIO()
    held = story.play(f"127.0.0.1:{project.port}", project.mail_folder, Console(file=told, width=160))
    assert held, told.getvalue()


def test_an_operator_can_do_their_work(project: Project) -> None:
    listed = project.run("run", "--rm", "--no-deps", "admin", "rotate-signing-key", seconds=120)
    assert listed.strip()


def test_what_is_made_once_is_not_made_anew(project: Project) -> None:
    before = project.containers()["identity"]["Id"]
    project.up()
    assert project.containers()["identity"]["Id"] == before


def lets_in(project: Project, origin: str) -> bool:
    """Whether pages of that origin may call the gateway."""
    connection = http.client.HTTPConnection("127.0.0.1", project.port, timeout=5)
    try:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        connection.request("OPTIONS", "/v1/auth:signIn", headers=asked)
        return connection.getresponse().getheader("access-control-allow-origin") == origin
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def test_a_setting_of_the_gateway_that_is_changed_is_used_and_nothing_else_restarts(project: Project) -> None:
    site = "https://app.example.com"
    assert not lets_in(project, site)
    before = project.containers()
    project.tell(GUILDHALL_ALLOWED_ORIGINS=site)
    project.up()

    wait_until(lambda: lets_in(project, site), "the gateway has its new configuration", seconds=60)
    assert project.containers()["identity"]["State"]["StartedAt"] == before["identity"]["State"]["StartedAt"]


def test_a_backup_as_documented_makes_another_installation_of_it(project: Project, tmp_path: Path) -> None:
    section = DOCUMENT.read_text().partition("\n### Backup\n")[2].partition("\n### ")[0]
    backup, restore = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    project.shell(backup, tmp_path)
    project.run("--profile", "admin", "down", "--volumes", "--timeout", "40", seconds=180)
    project.shell(restore, tmp_path)

    wait_until(project.answers, "the gateway answers", seconds=60)
    request = auth.SignInRequest(email="ada@example.com", password=story.PASSWORD)
    with grpc.insecure_channel(f"127.0.0.1:{project.port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        assert auth_rpc.AuthServiceStub(channel).SignIn(request, timeout=10).tokens.access_token


def test_everything_ends_well_when_it_is_told_to(project: Project) -> None:
    project.run("stop", "--timeout", "40", seconds=180)
    codes = {name: found["State"]["ExitCode"] for name, found in project.containers().items()}
    assert {name: code for name, code in codes.items() if code != 0} == {}
