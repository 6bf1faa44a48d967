"""What every kind of test shares: the running service, started once and only when a test asks for it."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.clients import Api, Sandbox
from tests.service_logs import pytest_runtest_makereport, pytest_runtest_setup
from tests.services import Service, running_service

__all__ = ["pytest_runtest_makereport", "pytest_runtest_setup"]

ISOLATIONS = ("runc", "runsc")
# How long an example takes is the machine's matter, which others share.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """A control plane and a node of their own, and after them a machine that shows no trace."""
    with running_service() as running:
        yield running


@pytest.fixture(scope="session")
def api(service: Service) -> Api:
    """A client of an organisation without limits."""
    return service.api("acceptance")


@pytest.fixture(scope="module", params=ISOLATIONS)
def isolation(request: pytest.FixtureRequest) -> str:
    """Each isolation in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def sandbox(api: Api, isolation: str) -> Iterator[Sandbox]:
    """A sandbox of the module's own; tests that share it leave it usable."""
    made = api.ready(runtime="base", isolation=isolation)
    yield made
    api.delete(made.id)
