"""The addresses and pages of the stand-in for Check-in, which are those of Keycloak below ``/auth/realms/egi``.

A Flask application. What a request is answered is the business of `demo.checkin_protocol`; on which socket the
application listens, that of `demo.checkin`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oidc.core import UserInfoEndpoint
from flask import Flask, Response, g, redirect, render_template, request, session

from demo.checkin_memory import SCOPES, Client, Memory
from demo.checkin_protocol import CheckinServer
from demo.people import Person

REALM = "/auth/realms/egi"
PROTOCOL = f"{REALM}/protocol/openid-connect"


def create_app(issuer: str, client: Client, people: Sequence[Person], memory: Memory) -> Flask:
    """The stand-in as a WSGI application. Each call makes a signing key of its own."""
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),
        # Cookies do not tell ports apart, so the name must not be anybody else's on this host.
        SESSION_COOKIE_NAME="checkin-stand-in",
        SESSION_COOKIE_PATH=REALM,
        SESSION_COOKIE_SAMESITE="Lax",
    )
    server = CheckinServer(app, issuer=issuer, client=client, memory=memory)
    _keep_pages_to_themselves(app)
    _add_configuration(app, server)
    _add_login(app, server, client, people)
    _add_tokens(app, server)
    _add_logout(app, client)
    return app


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


def _add_configuration(app: Flask, server: CheckinServer) -> None:
    @app.get(f"{REALM}/.well-known/openid-configuration")
    def configuration() -> dict[str, Any]:
        base = server.issuer.removesuffix(REALM) + PROTOCOL
        return {
            "issuer": server.issuer,
            "authorization_endpoint": f"{base}/auth",
            "token_endpoint": f"{base}/token",
            "introspection_endpoint": f"{base}/token/introspect",
            "userinfo_endpoint": f"{base}/userinfo",
            "end_session_endpoint": f"{base}/logout",
            "jwks_uri": f"{base}/certs",
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "code_challenge_methods_supported": ["S256"],
            "scopes_supported": list(SCOPES),
        }

    @app.get(f"{PROTOCOL}/certs")
    def certificates() -> dict[str, Any]:
        return {"keys": [server.key.as_dict(private=False)]}


def _add_login(app: Flask, server: CheckinServer, client: Client, people: Sequence[Person]) -> None:
    by_id = {person.voperson_id: person for person in people}

    @app.route(f"{PROTOCOL}/auth", methods=["GET", "POST"])
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
        return render_template("login.html", people=people, client_id=client.client_id, remembered=remembered)


def _add_tokens(app: Flask, server: CheckinServer) -> None:
    @app.post(f"{PROTOCOL}/token")
    def token() -> Any:
        return server.create_token_response()

    @app.post(f"{PROTOCOL}/token/introspect")
    def introspect() -> Any:
        return server.create_endpoint_response(IntrospectionEndpoint.ENDPOINT_NAME)

    @app.route(f"{PROTOCOL}/userinfo", methods=["GET", "POST"])
    def userinfo() -> Any:
        return server.create_endpoint_response(UserInfoEndpoint.ENDPOINT_NAME)


def _add_logout(app: Flask, client: Client) -> None:
    @app.get(f"{PROTOCOL}/logout")
    def logout() -> Any:
        session.clear()
        after = request.args.get("post_logout_redirect_uri", "")
        if after and _origin(after) in {_origin(uri) for uri in client.redirect_uris}:
            return redirect(after)
        return _message(200, "You are logged out", "The stand-in for EGI Check-in has forgotten who you were.")


def _message(status: int, title: str, text: str) -> tuple[str, int]:
    return render_template("message.html", title=title, text=text), status


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
