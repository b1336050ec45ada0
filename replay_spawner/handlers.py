"""What the hub itself answers at ``/v2/…``; what it tells of sessions is `session_report`.

To somebody who is not logged in: a page made from the link alone. No request goes out, nothing is looked up, nothing
is started. To somebody who is: the way to the build service's page, or a word that it does not answer.
"""

import secrets
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jupyterhub.handlers import BaseHandler
from tornado.httputil import url_concat

from replay_build_service.client import ReplayClient
from replay_build_service.link_schemas import LinkPreview
from replay_build_service.schemas import learn_installed_providers
from replay_spawner.idle.door import reading_handlers
from replay_spawner.reading import READING_PATH, ReadingHandler
from replay_spawner.session_report import SessionReportHandler


def link_handlers(service_url: str, token_file: str, home_url: str = "/services/replay/") -> list[tuple[Any, ...]]:
    """For ``c.JupyterHub.extra_handlers``. The arguments are those of the spawner's traits of the same meaning."""
    # Of a package that cannot be used the log says so: the hub starts without its links, and the service not at all.
    learn_installed_providers()
    return [
        (r"/v2/(.+)", LinkHandler, {"service_url": service_url, "token_file": token_file, "home_url": home_url}),
        (r"/api/replay/sessions/([^/]+)", SessionReportHandler),
        (READING_PATH, ReadingHandler),
        *reading_handlers(),
    ]


def hub_templates() -> str:
    """For ``c.JupyterHub.template_paths``: the hub's page of a server that does not answer, with words for Replay's."""
    return str(files("replay_spawner") / "templates" / "hub")


@cache
def _client(service_url: str, token_file: str) -> ReplayClient:
    return ReplayClient(service_url, Path(token_file))


@cache
def _templates() -> Environment:
    return Environment(loader=PackageLoader("replay_spawner"), autoescape=True, undefined=StrictUndefined)


@cache
def _css() -> str:
    return (files("replay_build_service") / "web" / "static" / "replay.css").read_text()


class LinkHandler(BaseHandler):
    """``GET /hub/v2/…``, where the hub sends ``/v2/…``."""

    def initialize(self, service_url: str, token_file: str, home_url: str) -> None:
        self._service_url = service_url
        self._token_file = token_file
        self._home_url = home_url

    async def get(self, _text: str) -> None:
        # The path as it came: what follows /v2/ may hold encoded slashes.
        raw = self.request.path.split("/v2/", 1)[1]
        if self.current_user is None:
            # Every hub has an authenticator; its own login page, so that one click leads to the provider.
            login = self.authenticator.login_url(self.hub.base_url)  # pyright: ignore[reportOptionalMemberAccess]
            login_url = url_concat(login, {"next": self.request.uri})
            preview = LinkPreview.of(raw, self.request.query)
            self.set_status(400 if preview.problem else 200)
            self._show("replay_link.html", preview=preview, login_url=login_url)
        elif await _client(self._service_url, self._token_file).is_up():
            query = f"?{self.request.query}" if self.request.query else ""
            self.redirect(f"{self._home_url}v2/{raw}{query}")
        else:
            number = secrets.token_hex(4)
            self.log.error("Error %s: %s, since Replay's build service does not answer", number, self.request.path)
            self.set_status(503)
            self._show("replay_unavailable.html", retry_url=self.request.uri, number=number)

    def _show(self, template: str, **values: Any) -> None:
        nonce = secrets.token_urlsafe(16)
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; style-src 'nonce-{nonce}'; img-src 'self' data:; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'",
        )
        self.set_header("Cache-Control", "no-store")
        self.finish(
            _templates()
            .get_template(template)
            .render(css=_css(), nonce=nonce, home_url=self.hub.base_url + "home", **values)
        )
