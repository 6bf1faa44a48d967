"""Capabilities of a sandbox: their form, the plan that each asks for, and what cannot be had together yet."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from boxkeep_server.model.browsers import PAIRED
from boxkeep_server.model.errors import PlanForbids
from boxkeep_server.model.images import LOCAL
from boxkeep_server.model.plans import LOWEST_WITH, PAIRED_BROWSER, RECORDING, Plan
from boxkeep_server.model.proxies import BadProxy, read_proxy
from boxkeep_server.web.fields import Fields, Text, sentence


def _proxy_url(value: object) -> object:
    if isinstance(value, str):
        try:
            read_proxy(value)
        except BadProxy as error:
            raise sentence(f"Invalid capabilities.browser.byoProxyUrl: {error}") from None
    return value


Short = Annotated[Text, Field(max_length=200)]


class Agent(Fields):
    """An AI agent in the sandbox."""

    enabled: bool | None = None
    default_agent: Short | None = None
    allow_prompt_api: bool | None = None


class Viewport(Fields):
    """The size of a browser's page in pixels."""

    width: Annotated[int, Field(ge=100, le=7680)]
    height: Annotated[int, Field(ge=100, le=4320)]


class Browser(Fields):
    """A browser beside the sandbox."""

    mode: Literal["none", "local-chromium", "paired-banata-browser"] | None = Field(
        default=None,
        description="Where it runs: in the machine of the sandbox's code, or in one of its own, so that page and code "
        "do not reach each other. The latter not with checkpoints.",
    )
    recording: (
        Annotated[bool, Field(description="Whether the screen is recorded, as MP4 in artifacts below `recordings/`.")]
        | None
    ) = None
    persistent_profile: bool | None = None
    stream_preview: bool | None = None
    human_in_loop: bool | None = None
    viewport: Viewport | None = None
    byo_proxy_url: Annotated[Text, Field(max_length=2048), BeforeValidator(_proxy_url)] | None = Field(
        default=None,
        repr=False,
        description="The proxy that the browser goes by, such as `http://user:password@host:3128` or "
        "`socks5://host:1080`; shown without user and password.",
    )

    @model_validator(mode="after")
    def _recorded_is_a_browser(self) -> "Browser":
        if self.recording and self.mode not in (LOCAL, PAIRED):
            raise sentence(f"Invalid capabilities.browser.recording: needs mode {LOCAL} or {PAIRED}")
        return self


class Documents(Fields):
    """Conversion of documents."""

    libreoffice_headless: bool | None = None


class Storage(Fields):
    """What is kept of a workspace, and where artifacts go."""

    workspace: Literal["ephemeral", "checkpointed"] | None = None
    artifact_prefix: Annotated[Text, Field(max_length=512)] | None = None


class Capabilities(Fields):
    """What a sandbox is to have besides a shell and files."""

    opencode: Agent | None = None
    agent: Agent | None = None
    browser: Browser | None = None
    documents: Documents | None = None
    storage: Storage | None = None

    @property
    def proxy_url(self) -> str | None:
        """The whole URL of a proxy that has a password, which `shown` is without."""
        url = None if self.browser is None else self.browser.byo_proxy_url
        return None if url is None else read_proxy(url).secret

    def shown(self) -> dict[str, Any]:
        """What was asked for, as it is written down and shown."""
        asked = self.model_dump(by_alias=True, exclude_unset=True)
        if self.browser is not None and self.browser.byo_proxy_url is not None:
            asked["browser"]["byoProxyUrl"] = read_proxy(self.browser.byo_proxy_url).shown
        return asked


def check_plan(wish: Capabilities, plan: Plan) -> None:
    """Raise `PlanForbids` for the first feature that is asked for and not in the plan."""
    for feature in _gated(wish):
        if feature not in plan.features:
            raise PlanForbids(feature, LOWEST_WITH[feature], plan.name)


def _gated(wish: Capabilities) -> Iterator[str]:
    if wish.browser is not None and wish.browser.mode == PAIRED:
        yield PAIRED_BROWSER
    if wish.browser is not None and wish.browser.recording:
        yield RECORDING
