"""The addresses and pages of the stand-in for Check-in, which are those of Keycloak below ``/auth/realms/egi``.

A Flask application. What a request is answered is the business of `demo.checkin_protocol`; on which sockets the
application listens, that of `demo.checkin`; how the stand-in is changed while it runs, that of `demo.checkin_control_pages`.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import jwt
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oidc.core import UserInfoEndpoint
from flask import Flask, Response, g, redirect, render_template, request, session

from demo.checkin_controls import Endpoint, Failing
from demo.checkin_memory import SCOPES, TOKEN_EXCHANGE, Client
from demo.checkin_protocol import CheckinServer
from demo.people import Person

REALM = "/auth/realms/egi"
PROTOCOL = f"{REALM}/protocol/openid-connect"
PATHS: Mapping[Endpoint, str] = {
    Endpoint.CONFIGURATION: f"{REALM}/.well-known/openid-configuration",
    Endpoint.AUTHORIZE: f"{PROTOCOL}/auth",
    Endpoint.TOKEN: f"{PROTOCOL}/token",
    Endpoint.USERINFO: f"{PROTOCOL}/userinfo",
    Endpoint.INTROSPECT: f"{PROTOCOL}/token/introspect",
    Endpoint.CERTS: f"{PROTOCOL}/certs",
    Endpoint.REVOKE: f"{PROTOCOL}/revoke",
    Endpoint.LOGOUT: f"{PROTOCOL}/logout",
}

StartResponse = Callable[..., Any]


def new_app() -> Flask:
    """An application without addresses, as authlib's server needs one to be made."""
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),
        # Cookies do not tell ports apart, so the name must not be anybody else's on this host.
        SESSION_COOKIE_NAME="checkin-stand-in",
        SESSION_COOKIE_PATH=REALM,
        SESSION_COOKIE_SAMESITE="Lax",
    )
    return app


def add_addresses(
    app: Flask, server: CheckinServer, people: Sequence[Person], url_of: Callable[[Endpoint], str]
) -> None:
    """All that Check-in has; ``url_of`` says where an endpoint is for others."""
    _keep_pages_to_themselves(app)
    _add_configuration(app, server, url_of)
    _add_login(app, server, people)
    _add_tokens(app, server)
    _add_logout(app, server)
    answer = app.wsgi_app
    app.wsgi_app = lambda environ, start_response: _answer_or_fail(server, answer, environ, start_response)


def _answer_or_fail(
    server: CheckinServer,
    answer: Callable[[dict[str, Any], StartResponse], Iterable[bytes]],
    environ: dict[str, Any],
    start_response: StartResponse,
) -> Iterable[bytes]:
    endpoint = next((endpoint for endpoint, path in PATHS.items() if path == environ["PATH_INFO"]), None)
    fault = server.controls.count_request(endpoint) if endpoint else None
    if endpoint is None or fault is None or fault is Failing.REFUSE:
        return answer(environ, start_response)
    match fault:
        case Failing.HANG:
            server.controls.wait_out(endpoint)
            return _status(503, start_response)
        case Failing.PAGE:
            start_response("200 OK", [("Content-Type", "text/html"), ("Cache-Control", "no-store")])
            return [b"<!doctype html><title>Welcome to this network</title>"]
        case Failing.DISCONNECT:
            return _cut(environ)
        case Failing.LOSE_ANSWER:
            list(answer(environ, lambda *_: None))
            return _cut(environ)
        case int():
            return _status(fault, start_response)


def _status(status: int, start_response: StartResponse) -> Iterable[bytes]:
    start_response(f"{status} Fault", [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
    return [b'{"error": "temporarily_unavailable"}']


def _cut(environ: Mapping[str, Any]) -> Iterable[bytes]:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError("This answer is lost on purpose.")  # werkzeug takes it for a client that left


def _keep_pages_to_themselves(app: Flask) -> None:
    @app.before_request
    def give_each_page_a_nonce() -> None:
        g.nonce = secrets.token_urlsafe(16)

    @app.after_request
    def add_headers(response: Response) -> Response:
        # No form-action: browsers would hold it against the redirect back to the hub as well.
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; style-src 'nonce-{g.nonce}'; base-uri 'none'; frame-ancestors 'none'"
        )
        response.headers["Cache-Control"] = "no-store"
        return response


def _add_configuration(app: Flask, server: CheckinServer, url_of: Callable[[Endpoint], str]) -> None:
    @app.get(PATHS[Endpoint.CONFIGURATION])
    def configuration() -> dict[str, Any]:
        grants = ["authorization_code", "refresh_token"]
        if server.controls.settings.exchanges_tokens:
            grants.append(TOKEN_EXCHANGE)
        revocation = {"revocation_endpoint": url_of(Endpoint.REVOKE)}
        return {
            "issuer": server.issuer,
            "authorization_endpoint": url_of(Endpoint.AUTHORIZE),
            "token_endpoint": url_of(Endpoint.TOKEN),
            "introspection_endpoint": url_of(Endpoint.INTROSPECT),
            "userinfo_endpoint": url_of(Endpoint.USERINFO),
            "end_session_endpoint": url_of(Endpoint.LOGOUT),
            "jwks_uri": url_of(Endpoint.CERTS),
            **(revocation if server.controls.settings.lists_revocation else {}),
            "grant_types_supported": grants,
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "code_challenge_methods_supported": ["S256"],
            "scopes_supported": list(SCOPES),
        }

    @app.get(PATHS[Endpoint.CERTS])
    def certificates() -> dict[str, Any]:
        return server.keys.published()


def _add_login(app: Flask, server: CheckinServer, people: Sequence[Person]) -> None:
    by_id = {person.voperson_id: person for person in people}

    @app.route(PATHS[Endpoint.AUTHORIZE], methods=["GET", "POST"])
    def authorize() -> Any:
        chosen = by_id.get(request.form.get("person", ""))
        remembered = by_id.get(session.get("person", ""))
        try:
            grant = server.get_consent_grant(end_user=chosen or remembered)
        except OAuth2Error as error:
            if error.redirect_uri:
                return server.handle_error_response(server.create_oauth2_request(request), error)
            return _message(400, "This login cannot go on", f"{error.error}: {error.description}")
        if request.method == "POST" and chosen:
            session["person"] = chosen.voperson_id
            return server.create_authorization_response(grant=grant, grant_user=chosen)
        if remembered and request.method == "GET" and grant.prompt is None:
            return server.create_authorization_response(grant=grant, grant_user=remembered)
        client_id = server.client.client_id
        return render_template("login.html", people=people, client_id=client_id, remembered=remembered)


def _add_tokens(app: Flask, server: CheckinServer) -> None:
    @app.post(PATHS[Endpoint.TOKEN])
    def token() -> Any:
        answer: Any = server.create_token_response()
        over = server.controls.settings.token_answer
        if over is None or answer.status_code != 200:
            return answer
        laid = {**answer.get_json(), **over}
        return {name: value for name, value in laid.items() if value is not None}

    @app.post(PATHS[Endpoint.INTROSPECT])
    def introspect() -> Any:
        return server.create_endpoint_response(IntrospectionEndpoint.ENDPOINT_NAME)

    @app.post(PATHS[Endpoint.REVOKE])
    def revoke() -> Any:
        return server.create_endpoint_response(RevocationEndpoint.ENDPOINT_NAME)

    @app.route(PATHS[Endpoint.USERINFO], methods=["GET", "POST"])
    def userinfo() -> Any:
        return server.create_endpoint_response(UserInfoEndpoint.ENDPOINT_NAME)


def _add_logout(app: Flask, server: CheckinServer) -> None:
    @app.get(PATHS[Endpoint.LOGOUT])
    def logout() -> Any:
        session.clear()
        after = request.args.get("post_logout_redirect_uri", "")
        client_id = _client_of_hint(server) or request.args.get("client_id")
        if after and client_id == server.client.client_id and _is_of(server.client, after):
            state = request.args.get("state")
            return redirect(after if state is None else f"{after}?state={state}")
        return _message(200, "You are logged out", "The stand-in for EGI Check-in has forgotten who you were.")


def _client_of_hint(server: CheckinServer) -> str | None:
    """Whose ID token ``id_token_hint`` is; an expired one says so too (OpenID Connect RP-Initiated Logout 1.0, 2)."""
    key = jwt.PyJWKSet.from_dict(server.keys.published())
    try:
        hint = request.args.get("id_token_hint", "")
        options: Any = {"verify_exp": False, "verify_aud": False}
        claims = jwt.decode(hint, key.keys[0], algorithms=["RS256"], issuer=server.issuer, options=options)
    except jwt.InvalidTokenError:
        return None
    return str(claims["aud"])


def _message(status: int, title: str, text: str) -> tuple[str, int]:
    return render_template("message.html", title=title, text=text), status


def _is_of(client: Client, url: str) -> bool:
    """Whether an address is of the same origin as one that may be returned to."""
    return _origin(url) in {_origin(uri) for uri in client.redirect_uris}


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
