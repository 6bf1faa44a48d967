"""A real browser, and a service whose sandboxes may have one too."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from boxkeep_server.model.images import SOFTWARE
from tests.clients import Api, eventually
from tests.ingredients import chromium, images
from tests.services import Service, running_service

RECORDING_FILE_S = 4


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a window."""
    with sync_playwright() as playwright:
        # It is started as root here, and shows nothing but pages of ours and of sandboxes of ours.
        started = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="package")
def equipped() -> Iterator[Service]:
    """A service whose images have all capability software."""
    place = {
        "BOXKEEP_NODE__IMAGES": str(images(*SOFTWARE)),
        "BOXKEEP_NODE__WARM": "{}",
        "BOXKEEP_NODE__MACHINE_MEMORY_MIB": "2048",
        "BOXKEEP_CONTROL__RECORDING_FILE_S": str(RECORDING_FILE_S),
    }
    with running_service(place, beside="b") as running:
        eventually("the node to have unpacked the images", lambda: _has_software(running.api("first")), 180, 1)
        yield running


def _has_software(api: Api) -> bool:
    wish = {"browser": {"mode": "local-chromium"}, "opencode": {"enabled": True}}
    made = api.ask("POST", "", json={"runtime": "python", "capabilities": wish})
    if made.status_code == 501:
        return False
    api.delete(made.json()["id"])
    return True
