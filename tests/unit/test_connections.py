"""The connections to PostgreSQL that processes open, and the room that is made, and told, for them."""

import re
from pathlib import Path

import pytest
import yaml

from deploy.stack import services, suite
from deploy.stack.settings import MAX_REPLICAS, SERVICES, load
from tests.rules.sources import ROOT
from tests.support.pools import connections_of_server, connections_of_worker

OPERATORS = 10
"""At least so many are left for the superuser, and for whoever looks after the database."""


def needed(replicas: int) -> int:
    """What a suite of so many replicas holds open at most."""
    return len(SERVICES) * (connections_of_server() * replicas + connections_of_worker())


def test_the_stack_reckons_with_what_processes_open() -> None:
    reckoned = (services.CONNECTIONS_OF_SERVER, services.CONNECTIONS_OF_WORKER)
    assert reckoned == (connections_of_server(), connections_of_worker())


@pytest.mark.parametrize("replicas", range(1, MAX_REPLICAS + 1))
def test_the_embedded_database_has_room_for_all_replicas(replicas: int, tmp_path: Path) -> None:
    settings = load({"GUILDHALL_DATA_DIR": str(tmp_path)}, replicas=replicas)

    command = suite.assemble(settings).postgres.program().command

    (room,) = (int(word.partition("=")[2]) for word in command if word.startswith("max_connections="))
    assert room >= needed(replicas) + OPERATORS


def test_the_database_of_the_compose_file_has_room_for_a_few_replicas_more() -> None:
    command = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["postgresql"]["command"]

    (room,) = (int(word.partition("=")[2]) for word in command if word.startswith("max_connections="))
    assert room >= needed(2) + OPERATORS


def test_the_runbook_says_how_many_they_are() -> None:
    text = " ".join((ROOT / "docs/runbook.md").read_text().split())
    said = re.search(
        r"each replica opens up to (\d+) to PostgreSQL \(three pools of (\d+)\), each worker (\d+)\.", text
    )

    assert said is not None
    assert tuple(map(int, said.groups())) == (
        connections_of_server(),
        connections_of_server() // 3,
        connections_of_worker(),
    )
