"""The end of somebody's access to the hub: their tokens and cookies at once, their servers through the hub's own REST API.

In the hub's process. Who has lost access is decided elsewhere (`replay_auth.refreshing`), and when that is looked at, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from logging import Logger
from typing import Any, Protocol
from urllib.parse import quote

from jupyterhub import orm, roles
from jupyterhub.utils import new_token, utcnow
from sqlalchemy.exc import SQLAlchemyError
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from replay_auth.stored import HubUser

SERVICE = "replay-membership"
"""The name by which the hub's log has what is asked here; also of a role with nothing but the right to stop servers."""

TOKEN_SECONDS = 3600
REQUEST_SECONDS = 30.0
"""The hub answers after its slow_stop_timeout (10 s) at the latest, and goes on stopping."""


def end_sessions(user: HubUser) -> int:
    """Take a person's tokens, logins under way and cookies from them, at once; returns how many tokens there were.

    No await: nobody can use one of them in between. Raises `SQLAlchemyError`.
    """
    database = user.db
    try:
        tokens = database.query(orm.APIToken).filter(orm.APIToken.user_id == user.orm_user.id).all()
        codes = database.query(orm.OAuthCode).filter(orm.OAuthCode.user_id == user.orm_user.id).all()
        for held in (*tokens, *codes):
            database.delete(held)
        user.orm_user.cookie_id = new_token()
        database.commit()
    except SQLAlchemyError:
        database.rollback()
        raise
    return len(tokens)


class HubApp(Protocol):
    """As much of the hub's application as is needed here."""

    db: Any
    hub: Any
    log: Logger | Any
    internal_ssl: bool
    internal_ssl_key: str
    internal_ssl_cert: str
    internal_ssl_ca: str


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    expires_at: datetime


class ServerStopper:
    """Stops servers as a service of the hub's would, with a token of its own.

    Service, role and token are made in the hub's database when the first server has to be stopped, so that no hub has to
    configure them. A hub removes at its start what its configuration does not name, these among it: without Replay nothing
    stays.
    """

    def __init__(self, app: HubApp, *, at_once: int) -> None:
        self._app = app
        self._token: _Token | None = None
        # With fewer connections, some would wait for one and be taken for a hub that does not answer.
        self._client = AsyncHTTPClient(force_instance=True, max_clients=at_once)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    async def stop(self, username: str, server_name: str) -> bool:
        """Ask for one server to be stopped; True where it is gone, False where it is still stopping.

        Raises `HTTPClientError` and `OSError` where the hub refuses or does not answer.
        """
        path = f"users/{quote(username, safe='@')}"
        path += f"/servers/{quote(server_name, safe='')}" if server_name else "/server"
        try:
            answer = await self._client.fetch(self._request(path))
        except HTTPClientError as error:
            if error.code not in {401, 403}:
                raise
            # Somebody removed the token, or the service with it: the hub that takes over from this one, say.
            self._token = None
            answer = await self._client.fetch(self._request(path))
        return answer.code == 204

    def _request(self, path: str) -> HTTPRequest:
        app = self._app
        options: dict[str, Any] = {}
        if app.internal_ssl:
            options = {
                "ca_certs": app.internal_ssl_ca,
                "client_key": app.internal_ssl_key,
                "client_cert": app.internal_ssl_cert,
                "validate_cert": True,
            }
        return HTTPRequest(
            f"{str(app.hub.api_url).rstrip('/')}/{path}",
            method="DELETE",
            headers={"Authorization": f"token {self._own_token()}"},
            connect_timeout=5.0,
            request_timeout=REQUEST_SECONDS,
            **options,
        )

    def _own_token(self) -> str:
        now = utcnow(with_tz=False)
        if self._token is None or self._token.expires_at < now + timedelta(seconds=2 * REQUEST_SECONDS):
            database = self._app.db
            try:
                text = self._made_token(database)
            except SQLAlchemyError:
                database.rollback()
                raise
            self._token = _Token(text, now + timedelta(seconds=TOKEN_SECONDS))
        return self._token.text

    def _made_token(self, database: Any) -> str:
        service = orm.Service.find(database, SERVICE)
        if service is None:
            service = orm.Service(name=SERVICE)
            database.add(service)
            database.commit()
        description = "Stop the servers of people who are members of a permitted VO no more"
        roles.create_role(database, {"name": SERVICE, "description": description, "scopes": ["delete:servers"]})
        roles.grant_role(database, service, SERVICE)
        return orm.APIToken.new(service=service, scopes=["delete:servers"], expires_in=TOKEN_SECONDS, note=SERVICE)
