"""Fixtures: one set of real servers for the whole test session; each test makes its own people and workspaces."""

from collections.abc import AsyncIterator, Iterator

import pytest

from deploy.stack import suite as stack_suite
from tests.support.backends import running_backends
from tests.support.suite import Suite


@pytest.fixture(scope="session")
def backends() -> Iterator[stack_suite.Suite]:
    """PostgreSQL, Valkey and the workers."""
    with running_backends() as stack:
        yield stack


@pytest.fixture(scope="session")
async def suite(backends: stack_suite.Suite) -> AsyncIterator[Suite]:
    """All four services, started."""
    services = Suite(backends)
    await services.start()
    yield services
    await services.stop()
