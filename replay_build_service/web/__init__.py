"""Everything that is answered over HTTP: the routes, and the application that serves them."""

import logging
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from jupyterhub.services.auth import HubOAuthCallbackHandler
from tornado import web
from tornado.web import url

from replay_build_service.lifetimes import in_words
from replay_build_service.web.api import Badge, Health, LaunchApi, LaunchesApi
from replay_build_service.web.base import MOST_BODY_BYTES, MOST_LOGGED, PageHandler, Site, asking_the_hub
from replay_build_service.web.internal import ActivityDoor, EndedDoor, PlanDoor
from replay_build_service.web.manager_routes import manager_routes
from replay_build_service.web.pages import (
    HomePage,
    LaunchChoice,
    LaunchForm,
    LaunchPage,
    LinkPage,
    NoSuchPage,
    StopForm,
)
from replay_build_service.web.resolve import ResolveApi
from replay_build_service.web.share import link_to
from replay_build_service.web.staying import SessionApi, StayApi, StayForm
from replay_build_service.web.streams import BuildEvents, LaunchEvents, encode_event
from replay_build_service.web.work import WorkDownload

__all__ = ["MOST_BODY_BYTES", "Site", "encode_event", "make_application", "make_templates"]

log = logging.getLogger(__name__)

_STATIC = Path(__file__).parent / "static"


class _OAuthCallback(HubOAuthCallbackHandler, PageHandler):  # pyright: ignore[reportIncompatibleUnannotatedOverride, reportIncompatibleVariableOverride, reportIncompatibleMethodOverride] - the hub's XSRF is meant
    """Where the hub sends a browser back to after its login. Nobody is known yet, and nobody is asked for."""

    async def prepare(self) -> None:
        self.current_user = self._hub_auth_user_cache = None

    async def get(self) -> None:
        if self.get_argument("error", ""):
            # What else the address says may be anybody's words, and this page is ours.
            raise web.HTTPError(400, "The hub did not log you in. Open the link again to log in.")
        async with asking_the_hub():
            await super().get()


def make_templates() -> Environment:
    """The environment of our pages: everything is escaped, and a name that a page lacks is an error."""
    environment = Environment(
        loader=PackageLoader("replay_build_service.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["in_words"] = in_words
    environment.filters["link_to"] = link_to
    return environment


def _log_request(handler: web.RequestHandler) -> None:
    """One line for each request, without its query: that may hold a login's code and the XSRF token."""
    request, status = handler.request, handler.get_status()
    level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else logging.INFO
    asked = f"{request.method} {request.path}"[:MOST_LOGGED]
    log.log(level, "%s %r (%s) %.0f ms", status, asked, request.remote_ip, 1000 * request.request_time())


def make_application(site: Site, cookie_secret: bytes) -> web.Application:
    """The service's routes. XSRF is checked by our own handlers once they know who asks, not by tornado before that."""
    base = site.base_url
    launch = r"([0-9a-f]{32})"
    build = r"([0-9a-f]{16})"
    return web.Application(
        [
            url(base, HomePage),
            url(base + r"v2/(.+)", LinkPage),
            url(base + "launches", LaunchForm),
            url(base + f"launches/{launch}", LaunchPage),
            url(base + f"launches/{launch}/choice", LaunchChoice),
            url(base + f"launches/{launch}/work", WorkDownload),
            url(base + f"launches/{launch}/stay", StayForm),
            url(base + "servers/stop", StopForm),
            url(base + "api/launches", LaunchesApi),
            url(base + f"api/launches/{launch}", LaunchApi),
            url(base + f"api/launches/{launch}/stay", StayApi),
            url(base + "api/session", SessionApi),
            url(base + "api/resolve", ResolveApi),
            url(base + f"api/launches/{launch}/events", LaunchEvents),
            url(base + f"api/builds/{build}/events", BuildEvents),
            *manager_routes(base),
            url(base + "internal/plan", PlanDoor),
            url(base + "internal/ended", EndedDoor),
            url(base + "internal/activity", ActivityDoor),
            url(base + "health", Health),
            url(base + "oauth_callback", _OAuthCallback),
            url(base + r"static/(.*)", web.StaticFileHandler, {"path": str(_STATIC)}),
            url(r"/(?:badge_logo\.svg)/?", Badge, {"path": str(_STATIC), "file": "badge_logo.svg"}),
            url(r"/(?:badge\.svg)/?", Badge, {"path": str(_STATIC), "file": "badge.svg"}),
        ],
        default_handler_class=NoSuchPage,
        cookie_secret=cookie_secret,
        log_function=_log_request,
        site=site,
    )
