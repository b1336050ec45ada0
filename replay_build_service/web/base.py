"""What all handlers share: who asks, XSRF, headers, pages, and from our errors to HTTP, in this one place."""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.client import responses
from typing import Any, cast
from urllib.parse import urlsplit

from jinja2 import Environment
from jupyterhub.services.auth import HubOAuthenticated, UserNotAllowed
from tornado import web

from replay_build_service.builds import Builds
from replay_build_service.db import Store
from replay_build_service.domain import LaunchId, Person
from replay_build_service.errors import (
    BadLink,
    Conflict,
    NotFound,
    NotPermitted,
    RefNotFound,
    Refused,
    ReplayError,
    SourceFault,
    TermsNotAgreed,
)
from replay_build_service.events import EventFeed
from replay_build_service.launches import Launches
from replay_build_service.managing import Managing
from replay_build_service.pasted_links import PastedLinks
from replay_build_service.schemas import ReadingModel, Refusal, SessionReport, TermsModel
from replay_build_service.web.auth import AtOnce, RateLimit, StatelessHubOAuth, person_of

log = logging.getLogger(__name__)

MOST_BODY_BYTES = 64 * 1024

MOST_LOGGED = 300
"""Characters of a path or a message that go into the log."""

HUB_SECONDS = 10.0
"""How long the hub may take to say who asks. A person waits for it with nothing to see."""

_HUB_IS_AWAY = "The hub does not answer just now. Try again in a moment."


@asynccontextmanager
async def asking_the_hub() -> AsyncGenerator[None]:
    """What is asked of the hub in here is answered in time. Raises `SourceFault` where it is not, or not properly."""
    try:
        async with asyncio.timeout(HUB_SECONDS):
            yield
    except TimeoutError as error:
        raise SourceFault(_HUB_IS_AWAY) from error
    except web.HTTPError as error:
        # JupyterHub's library answers 5xx in our name where it could not reach the hub.
        if error.status_code < 500:
            raise
        log.warning("The hub does not answer: %r", error.log_message)
        raise SourceFault(_HUB_IS_AWAY) from error


@dataclass(frozen=True, slots=True)
class Site:
    """All that handlers need, wired by ``app.py``."""

    launches: Launches
    pasted: PastedLinks
    builds: Builds
    managing: Managing
    store: Store
    feed: EventFeed
    hub_auth: StatelessHubOAuth
    templates: Environment
    base_url: str
    """Path of the service on the hub's host, with slashes at both ends."""
    public_url: str
    """``scheme://host[:port]`` that people use, where the admin told it; else empty, and the request tells."""
    hub_home_url: str
    internal_token: str
    session_report: Callable[[str], Awaitable[SessionReport | None]]
    """What the hub tells of a person's running session; none where it does not, and no fault is raised."""
    read_session: Callable[[str, LaunchId, str], Awaitable[ReadingModel]]
    """A way in to a person's session of a launch, with a token of theirs."""
    notices: tuple[str, ...]
    """What the builder and the spawner of this site cannot do, for the consent page."""
    launch_limit: RateLimit = field(default_factory=lambda: RateLimit(most=30, seconds=60))
    look_limit: RateLimit = field(default_factory=lambda: RateLimit(most=120, seconds=60))
    manage_limit: RateLimit = field(default_factory=lambda: RateLimit(most=60, seconds=60))
    """Forms of VO managers."""
    stream_limit: AtOnce = field(default_factory=lambda: AtOnce(20))
    work_limit: RateLimit = field(default_factory=lambda: RateLimit(most=10, seconds=3600))
    """Downloads of what somebody made."""
    work_at_once: AtOnce = field(
        default_factory=lambda: AtOnce(1, "A download of your work runs already. Wait for its end, or stop it.")
    )


def status_of(error: ReplayError) -> int:
    """The HTTP status of each kind of our errors."""
    match error:
        case BadLink():
            return 400
        case NotFound():
            return 404
        case Refused():
            return 403
        case Conflict():
            return 409
        case SourceFault():
            return 503
        case _:
            return 500


class PlainHandler(web.RequestHandler):
    """Asks nobody who they are: badges, health, the spawner's own door."""

    @property
    def site(self) -> Site:
        return self.application.settings["site"]

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "same-origin")

    async def take_of(self, limit: RateLimit, person: Person, repo: str, content: str | None = None) -> None:
        """Count a request about a repository. Raises 429 where there were too many, but for those of an event that is on."""
        try:
            limit.take(person.name)
        except web.HTTPError:
            if not await self.site.launches.permissions.is_prepared_for(person, repo, content):
                raise

    def write_json(self, model: Any, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(model.model_dump_json())

    def explained(self, kwargs: dict[str, Any]) -> Refusal:
        """The error that is being answered, as a sentence with the number that finds its log line."""
        number = secrets.token_hex(4)
        status = self.get_status()
        error = kwargs.get("exc_info", (None, None, None))[1]
        nearest: list[str] = []
        terms = None
        match error:
            case ReplayError():
                status = status_of(error)
                message = error.sentence
                if isinstance(error, RefNotFound):
                    nearest = list(error.nearest)
                if isinstance(error, TermsNotAgreed):
                    terms = TermsModel(vo=error.vo, version=error.version, text=error.text)
            case web.HTTPError() if error.status_code < 500:
                status = error.status_code
                sentence = error.log_message or responses.get(status, "The request was not understood") + "."
                # Tornado doubles the percent signs of a message without arguments.
                message = sentence % error.args if error.args else sentence.replace("%%", "%")
            case _:
                message = "Something went wrong in Replay itself. Try again; if it happens again, tell the administrators this number."
        self.set_status(status)
        # As representations: what a stranger wrote must not look like a line of ours.
        asked, told = f"{self.request.method} {self.request.path}"[:MOST_LOGGED], message[:MOST_LOGGED]
        log.info("Error %s: %r answered %s: %r", number, asked, status, told)
        return Refusal(
            error=responses.get(status, "error").lower().replace(" ", "_"),
            message=message,
            id=number,
            nearest=nearest,
            terms=terms,
        )

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Our own errors are answers, not accidents: one line, written by `explained`, without a trace."""
        if isinstance(value, ReplayError) or (isinstance(value, web.HTTPError) and value.status_code < 500):
            return
        # Without the query, which may hold tokens and codes.
        asked = f"{self.request.method} {self.request.path}"[:MOST_LOGGED]
        log.error("Answering %r broke", asked, exc_info=(typ, value, tb))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        refusal = self.explained(kwargs)
        self.write_json(refusal, self.get_status())


class HubHandler(HubOAuthenticated, PlainHandler):  # pyright: ignore[reportIncompatibleUnannotatedOverride, reportIncompatibleVariableOverride, reportIncompatibleMethodOverride] - the hub's XSRF is meant
    """Knows who asks before anything else happens: `prepare` awaits the hub and checks XSRF."""

    person: Person

    @property
    def hub_auth(self) -> StatelessHubOAuth:  # pyright: ignore[reportIncompatibleMethodOverride] - the hub's is a settable property
        return self.site.hub_auth

    def get_current_user(self) -> dict[str, Any] | None:
        """Who `prepare` found. A page about an error must not ask the hub once more, and never block for its answer."""
        return getattr(self, "_hub_auth_user_cache", None)

    async def prepare(self) -> None:
        async with asking_the_hub():
            model = cast(dict[str, Any] | None, await self.hub_auth.get_user(self, sync=False))
        if model is not None:
            try:
                self.check_hub_user(model)
            except UserNotAllowed as error:
                raise web.HTTPError(
                    403, "You may not use Replay on this hub. Its administrators can change that."
                ) from error
        self._hub_auth_user_cache = model
        self.current_user = model
        if model is None:
            self.ask_to_log_in()
            return
        if model.get("kind") != "user":
            raise web.HTTPError(403, "This is for people. A service's token cannot launch.")
        if self.request.method not in {"GET", "HEAD", "OPTIONS"}:
            self.hub_auth.check_xsrf_cookie(self)
        self.person = person_of(model)

    @property
    def is_admin(self) -> bool:
        """Whether the hub calls this person an administrator."""
        model = cast("dict[str, object] | None", self.current_user)
        return model is not None and model.get("admin") is True

    async def take(self, limit: RateLimit, repo: str, content: str | None = None) -> None:
        """Count a request of this person's about a repository. Raises as `PlainHandler.take_of`."""
        await self.take_of(limit, self.person, repo, content)

    def ask_to_log_in(self) -> None:
        """What somebody gets whom the hub does not know."""
        raise web.HTTPError(403, "Log in, or send a token of the hub: “Authorization: token …”.")


class PageHandler(HubHandler):
    """Pages for people."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")
        self.set_content_security_policy()

    def set_content_security_policy(self, style: str = "'self'", logo: str | None = None) -> None:
        """``logo`` is the address of a community's; one of another host is let in."""
        parts = urlsplit(logo or "")
        images = f" https://{parts.netloc}" if parts.scheme == "https" else ""
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:{images}; font-src 'self'; "
            f"style-src {style}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        )

    def ask_to_log_in(self) -> None:
        if self.request.method not in {"GET", "HEAD"}:
            raise web.HTTPError(403, "Your login has ended. Open the link again.")
        self.redirect(cast(str, self.get_login_url()))

    def render_page(self, template: str, status: int = 200, **values: Any) -> None:
        """A page from ``templates/``, with what every page has."""
        self.set_status(status)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(
            self.site.templates.get_template(template).render(
                base_url=self.site.base_url,
                hub_home_url=self.site.hub_home_url,
                person=getattr(self, "person", None),
                xsrf=(self.xsrf_token or b"").decode() if self.current_user else "",
                origin=self.origin,
                **values,
            )
        )

    @property
    def origin(self) -> str:
        """``scheme://host[:port]`` as the person's browser knows this hub, for links to copy."""
        if self.site.public_url:
            return self.site.public_url
        forwarded = self.request.headers.get("X-Forwarded-Proto", self.request.protocol)
        scheme = forwarded.split(",")[0].strip()
        return f"{scheme if scheme in {'http', 'https'} else 'http'}://{self.request.host}"

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        refusal = self.explained(kwargs)
        self.render_page(
            "error.html",
            self.get_status(),
            refusal=refusal,
            nearest=self.nearest_links(refusal),
            enrolments=enrolments_of(kwargs.get("exc_info", (None, None, None))[1]),
            elsewhere=self.link_elsewhere(kwargs.get("exc_info", (None, None, None))[1]),
        )

    def nearest_links(self, refusal: Refusal) -> list[tuple[str, str]]:
        """Name and path of links that would work, for an error page."""
        return []

    def link_elsewhere(self, error: object) -> tuple[str, str] | None:
        """Name and path of a link to the same in another place, for an error page."""
        return None


def enrolments_of(error: object) -> list[tuple[str, str]]:
    """The VOs that would do, by name, with the addresses where one enrols; addresses of the web only."""
    if not isinstance(error, NotPermitted):
        return []
    return [(name, url) for name, url in error.vos if url and url.lower().startswith(("https://", "http://"))]


class ApiHandler(HubHandler):
    """JSON for programs and for our own pages' scripts."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")
