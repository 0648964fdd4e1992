"""Fixtures: one set of real servers for the whole test session; each test makes its own people and workspaces."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy.stack import suite as stack_suite
from tests.support.backends import SHARED, Processes, running_backends, shared_backends
from tests.support.forks import Forks
from tests.support.suite import Suite


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """What the project's own programs are forked from."""
    made = Forks()
    yield made
    made.close()


@pytest.fixture(scope="session")
def processes(forks: Forks) -> Processes:
    """What runs beside the services of this session."""
    return Processes(forks.spawn)


@pytest.fixture(scope="session")
def backends(processes: Processes) -> Iterator[stack_suite.Suite]:
    """PostgreSQL, Valkey and the workers; no beat."""
    shared = os.environ.get(SHARED)
    with shared_backends(processes, Path(shared)) if shared else running_backends(processes) as stack:
        yield stack


@pytest.fixture(scope="module")
def no_workers(processes: Processes, backends: stack_suite.Suite) -> Iterator[None]:
    """All workers are stopped while a file's tests run."""
    workers = processes.stop(suffix="-worker")
    yield
    for worker in workers:
        processes.start(worker)


@pytest.fixture(scope="module")
def no_guest_worker(processes: Processes, backends: stack_suite.Suite) -> Iterator[None]:
    """guest's worker is stopped while a file's tests run."""
    (worker,) = processes.stop(suffix="guest-worker")
    yield
    processes.start(worker)


@pytest.fixture(scope="session")
async def suite(backends: stack_suite.Suite) -> AsyncIterator[Suite]:
    """All four services, started."""
    services = Suite(backends)
    await services.start()
    yield services
    await services.stop()
