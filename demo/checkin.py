"""A stand-in for EGI Check-in on loopback: an OpenID Connect provider whose logins take one click.

For the demo and the tests. The protocol is authlib's; here are the people, what is kept in memory, and the addresses,
which are those of Check-in (Keycloak's, below ``/auth/realms/egi``). It asks for no password, so it never listens
on anything but loopback.

Like Check-in, it insists on PKCE and an exact redirect URI, releases memberships in userinfo and introspection only,
and gives a refresh token to whoever asks for ``offline_access``.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, InvalidRequestError, TokenMixin, grants
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oidc.core import UserInfo, UserInfoEndpoint
from authlib.oidc.core.grants import OpenIDCode, OpenIDToken
from flask import Flask, Response, g, redirect, render_template, request, session
from jinja2 import DictLoader
from joserfc.jwk import KeySet, RSAKey
from werkzeug.serving import WSGIRequestHandler, make_server

from demo.people import PEOPLE, Person

REALM = "/auth/realms/egi"
PROTOCOL = f"{REALM}/protocol/openid-connect"

SCOPES = (
    "openid",
    "profile",
    "email",
    "voperson_id",
    "eduperson_entitlement",
    "entitlements",
    "offline_access",
)

ACCESS_TOKEN_SECONDS = 3600
CODE_SECONDS = 60


_PAGES = {
    "base.html": """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{% block title %}{% endblock %}</title>
<style nonce="{{ g.nonce }}">
  :root { color-scheme: light dark; --ink: #22232e; --quiet: #5b5e6d; --paper: #f3f1ec; --sheet: #fff; --line: #cfcabf;
    --accent: #7a4a00; --note: #fff3d6; }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #ecebe6; --quiet: #b4b1a8; --paper: #17161a; --sheet: #222126; --line: #45434b;
      --accent: #f0b95c; --note: #3a2f18; }
  }
  * { box-sizing: border-box; }
  body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
  main { max-width: 34rem; margin: 0 auto; padding: 3rem 1.25rem; }
  h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; }
  .note { background: var(--note); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
  ul { list-style: none; margin: 1.5rem 0; padding: 0; }
  li { margin: 0 0 .6rem; }
  button { display: block; width: 100%; padding: .75rem 1rem; text-align: left; font: inherit; color: inherit;
    cursor: pointer; background: var(--sheet); border: 1px solid var(--line); border-radius: .5rem; }
  button:hover { border-color: var(--accent); }
  button:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
  button strong, button span { display: block; }
  button span { color: var(--quiet); font-size: .9rem; }
</style>
</head>
<body>
<main>
{% block main %}{% endblock %}
</main>
</body>
</html>
""",
    "login.html": """\
{% extends "base.html" %}
{% block title %}Log in (stand-in for EGI Check-in){% endblock %}
{% block main %}
<h1>Who are you?</h1>
<p class="note">This is not EGI Check-in. It is the demo's stand-in for it on this machine: the people are invented and
there are no passwords. Choose one to log in to “{{ client_id }}”.</p>
{% if remembered %}<p>You are logged in as {{ remembered.name }}, and were asked to log in again.</p>{% endif %}
<form method="post">
<ul>
{% for person in people %}
  <li><button name="person" value="{{ person.voperson_id }}"><strong>{{ person.name }}</strong>
    <span>{{ person.email }}, {{ person.remark }}</span></button></li>
{% endfor %}
</ul>
</form>
{% endblock %}
""",
    "message.html": """\
{% extends "base.html" %}
{% block title %}{{ title }}{% endblock %}
{% block main %}
<h1>{{ title }}</h1>
<p>{{ text }}</p>
<p class="note">This is the demo's stand-in for EGI Check-in.</p>
{% endblock %}
""",
}


@dataclass(frozen=True, slots=True)
class Client(ClientMixin):
    """The one application that may ask: the hub."""

    client_id: str
    client_secret: str = field(repr=False)
    redirect_uris: tuple[str, ...]
    client_metadata: dict[str, Any] = field(default_factory=dict)
    id_token_signed_response_alg: str = "RS256"

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        """None: whoever asks has to name it."""

    def get_allowed_scope(self, scope: str | None) -> str:
        return " ".join(name for name in (scope or "").split() if name in SCOPES)

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self.redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(self.client_secret.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in {"client_secret_basic", "client_secret_post"}

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in {"authorization_code", "refresh_token"}


@dataclass(frozen=True, slots=True)
class AuthorizationCode(AuthorizationCodeMixin):
    """What one authorization code stands for."""

    person: Person
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str
    code_challenge_method: str
    issued_at: int

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> int:
        return self.issued_at

    def get_acr(self) -> None:
        """Not told."""

    def get_amr(self) -> None:
        """Not told."""


@dataclass(frozen=True, slots=True)
class Token(TokenMixin):
    """One token response, with its refresh token where there is one."""

    person: Person
    client: Client
    scope: str
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    issued_at: int
    expires_in: int

    def check_client(self, client: ClientMixin) -> bool:
        return client is self.client

    def get_scope(self) -> str:
        return self.scope

    def get_expires_in(self) -> int:
        return self.expires_in

    def is_expired(self) -> bool:
        return time.time() >= self.issued_at + self.expires_in

    def is_revoked(self) -> bool:
        return False

    def get_user(self) -> Person:
        return self.person

    def get_client(self) -> Client:
        return self.client


class Memory:
    """Codes and tokens, for as long as the stand-in runs. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes: dict[str, AuthorizationCode] = {}
        self._by_access_token: dict[str, Token] = {}
        self._by_refresh_token: dict[str, Token] = {}

    def add_code(self, code: str, meaning: AuthorizationCode) -> None:
        with self._lock:
            self._codes[code] = meaning

    def take_code(self, code: str) -> AuthorizationCode | None:
        """What the code stands for, once: asking uses it up, whatever comes of the request."""
        with self._lock:
            meaning = self._codes.pop(code, None)
        return meaning if meaning and time.time() < meaning.issued_at + CODE_SECONDS else None

    def has_nonce(self, nonce: str) -> bool:
        with self._lock:
            return any(code.nonce == nonce for code in self._codes.values())

    def add_token(self, token: Token) -> None:
        with self._lock:
            self._by_access_token[token.access_token] = token
            if token.refresh_token:
                self._by_refresh_token[token.refresh_token] = token

    def of_access_token(self, text: str) -> Token | None:
        return self._by_access_token.get(text)

    def of_refresh_token(self, text: str) -> Token | None:
        return self._by_refresh_token.get(text)


def identity(person: Person, scope: str) -> UserInfo:
    """Who the person is: what an ID token may hold."""
    wanted = scope.split()
    claims = UserInfo(sub=person.voperson_id)
    if "profile" in wanted:
        claims |= {
            "name": person.name,
            "given_name": person.given_name,
            "family_name": person.family_name,
            "preferred_username": person.preferred_username,
        }
    if "email" in wanted:
        claims |= {"email": person.email, "email_verified": True}
    if "voperson_id" in wanted:
        claims["voperson_id"] = person.voperson_id
    return UserInfo(claims)


def identity_and_memberships(person: Person, scope: str) -> UserInfo:
    """The same and the groups: for userinfo and introspection. A claim without values is left out, as at Check-in."""
    claims = identity(person, scope)
    for claim in ("eduperson_entitlement", "entitlements"):
        values: tuple[str, ...] = getattr(person, claim)
        if claim in scope.split() and values:
            claims[claim] = list(values)
    return claims


class RequiredS256(CodeChallenge):
    """PKCE that nobody can leave out, with the one method that protects anything."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ["S256"]

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        data = grant.request.payload.data
        if not data.get("code_challenge"):
            raise InvalidRequestError("Missing parameter: code_challenge")
        if data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("Invalid parameter: code challenge method is not S256")
        super().validate_code_challenge(grant, redirect_uri)


def _authorization_server(app: Flask, client: Client, memory: Memory, issuer: str, key: RSAKey) -> AuthorizationServer:
    """authlib's server over our memory. The grants are classes because authlib makes one object for each request."""

    class CodeGrant(grants.AuthorizationCodeGrant):
        def save_authorization_code(self, code: str, request: Any) -> None:
            data = request.payload.data
            meaning = AuthorizationCode(
                person=request.user,
                redirect_uri=request.payload.redirect_uri,
                scope=request.scope,
                nonce=data.get("nonce"),
                code_challenge=data["code_challenge"],
                code_challenge_method=data["code_challenge_method"],
                issued_at=int(time.time()),
            )
            memory.add_code(code, meaning)

        def query_authorization_code(self, code: str, client: Client) -> AuthorizationCode | None:
            return memory.take_code(code)

        def delete_authorization_code(self, authorization_code: AuthorizationCode) -> None:
            """Nothing is left to delete: it was taken when it was read."""

        def authenticate_user(self, authorization_code: AuthorizationCode) -> Person:
            return authorization_code.person

        def generate_token(self, *args: Any, scope: str, **options: Any) -> dict[str, Any]:
            options["include_refresh_token"] = "offline_access" in scope.split()
            return super().generate_token(*args, scope=scope, **options)

    class RefreshGrant(grants.RefreshTokenGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = CodeGrant.TOKEN_ENDPOINT_AUTH_METHODS

        def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
            return memory.of_refresh_token(refresh_token)

        def authenticate_user(self, refresh_token: Token) -> Person:
            return refresh_token.person

        def revoke_old_credential(self, refresh_token: Token) -> None:
            """The refresh token stays as it is; the access tokens that it gave run out."""

    class SignedIdentity:
        def resolve_client_private_key(self, client: Client) -> KeySet:
            return KeySet([key])

        def get_encode_header(self, client: Client) -> dict[str, str]:
            return {"alg": "RS256", "kid": str(key.kid)}

        def get_client_claims(self, client: Client) -> dict[str, Any]:
            return {"iss": issuer, "aud": client.client_id}

        def generate_user_info(self, user: Person, scope: str) -> UserInfo:
            return identity(user, scope)

    class CodeIdentity(SignedIdentity, OpenIDCode):
        def exists_nonce(self, nonce: str, request: Any) -> bool:
            return memory.has_nonce(nonce)

    class RefreshedIdentity(SignedIdentity, OpenIDToken):
        pass

    class Userinfo(UserInfoEndpoint):
        def generate_user_info(self, user: Person, scope: str) -> UserInfo:
            return identity_and_memberships(user, scope)

    class Introspection(IntrospectionEndpoint):
        CLIENT_AUTH_METHODS = CodeGrant.TOKEN_ENDPOINT_AUTH_METHODS

        def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
            return memory.of_access_token(token_string) or memory.of_refresh_token(token_string)

        def check_permission(self, token: Token, client: Client, request: Any) -> bool:
            return token.client is client

        def introspect_token(self, token: Token) -> dict[str, Any]:
            described = {
                "iss": issuer,
                "client_id": token.client.client_id,
                "scope": token.scope,
                "exp": token.issued_at + token.expires_in,
            }
            return {**described, **identity_and_memberships(token.person, token.scope)}

    class AccessTokens(BearerTokenValidator):
        def authenticate_token(self, token_string: str) -> Token | None:
            return memory.of_access_token(token_string)

    def save_token(token: dict[str, Any], request: Any) -> None:
        memory.add_token(
            Token(
                person=request.user,
                client=request.client,
                scope=token.get("scope", ""),
                access_token=token["access_token"],
                refresh_token=token.get("refresh_token"),
                issued_at=int(time.time()),
                expires_in=token["expires_in"],
            )
        )

    app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
    lifetimes = dict.fromkeys(("authorization_code", "refresh_token"), ACCESS_TOKEN_SECONDS)
    app.config["OAUTH2_TOKEN_EXPIRES_IN"] = lifetimes
    server = AuthorizationServer(
        app, query_client=lambda client_id: client if client_id == client.client_id else None, save_token=save_token
    )
    protector = ResourceProtector()
    protector.register_token_validator(AccessTokens())
    server.register_grant(CodeGrant, [RequiredS256(required=True), CodeIdentity()])
    server.register_grant(RefreshGrant, [RefreshedIdentity()])
    server.register_endpoint(Userinfo(resource_protector=protector))
    server.register_endpoint(Introspection)
    return server


def create_app(issuer: str, client: Client, people: Sequence[Person], memory: Memory) -> Flask:
    """The stand-in as a WSGI application. Each call makes a signing key of its own."""
    app = Flask(__name__)
    app.jinja_env.loader = DictLoader(_PAGES)
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),
        # Cookies do not tell ports apart, so the name must not be anybody else's on this host.
        SESSION_COOKIE_NAME="checkin-stand-in",
        SESSION_COOKIE_PATH=REALM,
        SESSION_COOKIE_SAMESITE="Lax",
    )
    key = RSAKey.generate_key(2048, parameters={"use": "sig", "alg": "RS256"}, private=True, auto_kid=True)
    server = _authorization_server(app, client, memory, issuer, key)
    by_id = {person.voperson_id: person for person in people}

    @app.before_request
    def give_each_page_a_nonce() -> None:
        g.nonce = secrets.token_urlsafe(16)

    @app.after_request
    def keep_pages_to_themselves(response: Response) -> Response:
        # No form-action: browsers would hold it against the redirect back to the hub as well.
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; style-src 'nonce-{g.nonce}'; base-uri 'none'; frame-ancestors 'none'"
        )
        response.headers["Cache-Control"] = "no-store"
        return response

    def message(status: int, title: str, text: str) -> tuple[str, int]:
        return render_template("message.html", title=title, text=text), status

    @app.get(f"{REALM}/.well-known/openid-configuration")
    def configuration() -> dict[str, Any]:
        base = issuer.removesuffix(REALM) + PROTOCOL
        return {
            "issuer": issuer,
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

    @app.route(f"{PROTOCOL}/auth", methods=["GET", "POST"])
    def authorize() -> Any:
        chosen = by_id.get(request.form.get("person", ""))
        remembered = by_id.get(session.get("person", ""))
        try:
            grant = server.get_consent_grant(end_user=chosen or remembered)
        except OAuth2Error as error:
            if error.redirect_uri:
                return server.handle_error_response(server.create_oauth2_request(request), error)
            return message(400, "This login cannot go on", f"{error.error}: {error.description}")
        if request.method == "POST" and chosen:
            session["person"] = chosen.voperson_id
            return server.create_authorization_response(grant=grant, grant_user=chosen)
        if remembered and request.method == "GET" and grant.prompt is None:
            return server.create_authorization_response(grant=grant, grant_user=remembered)
        return render_template("login.html", people=people, client_id=client.client_id, remembered=remembered)

    @app.post(f"{PROTOCOL}/token")
    def token() -> Any:
        return server.create_token_response()

    @app.post(f"{PROTOCOL}/token/introspect")
    def introspect() -> Any:
        return server.create_endpoint_response(IntrospectionEndpoint.ENDPOINT_NAME)

    @app.route(f"{PROTOCOL}/userinfo", methods=["GET", "POST"])
    def userinfo() -> Any:
        return server.create_endpoint_response(UserInfoEndpoint.ENDPOINT_NAME)

    @app.get(f"{PROTOCOL}/certs")
    def certificates() -> dict[str, Any]:
        return {"keys": [key.as_dict(private=False)]}

    @app.get(f"{PROTOCOL}/logout")
    def logout() -> Any:
        session.clear()
        after = request.args.get("post_logout_redirect_uri", "")
        if after and _origin(after) in {_origin(uri) for uri in client.redirect_uris}:
            return redirect(after)
        return message(200, "You are logged out", "The stand-in for EGI Check-in has forgotten who you were.")

    return app


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


class _QuietRequests(WSGIRequestHandler):
    """Faults are logged, requests are not: they hold codes."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class CheckinStandIn:
    """The stand-in on an address of its own, served by threads of its own.

    The port is taken when the object is made, so that `issuer` is known; it answers from `start` to `stop`.
    Port 0 takes a free one. Raises `ValueError` for an address that is not loopback.
    """

    def __init__(
        self,
        *,
        client_id: str,
        client_secret: str,
        redirect_uris: Iterable[str],
        host: str = "127.0.0.1",
        port: int = 0,
        people: Sequence[Person] = PEOPLE,
    ) -> None:
        if not ip_address(host).is_loopback:
            raise ValueError(f"{host} is no loopback address, and this stand-in asks for no password.")
        self.people = tuple(people)
        self.memory = Memory()
        client = Client(client_id, client_secret, tuple(redirect_uris))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as listening:
            port = listening.getsockname()[1]
            self.issuer = f"http://{f'[{host}]' if ':' in host else host}:{port}{REALM}"
            app = create_app(self.issuer, client, self.people, self.memory)
            # The server has its own descriptor of the same socket.
            self._server = make_server(
                host, port, app, threaded=True, request_handler=_QuietRequests, fd=listening.fileno()
            )
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Answer from now on. May be called once."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="checkin", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and give the port back. May be called more than once."""
        if self._thread:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m demo.checkin", description="A stand-in for EGI Check-in.")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--client-secret-file", type=Path, required=True, help="its first line is the secret")
    parser.add_argument("--redirect-uri", action="append", required=True, help="may be given more than once")
    options = parser.parse_args(arguments)
    secret = options.client_secret_file.read_text().strip()
    if not secret:
        parser.error(f"{options.client_secret_file} is empty")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with CheckinStandIn(
        host=options.host,
        port=options.port,
        client_id=options.client_id,
        client_secret=secret,
        redirect_uris=options.redirect_uri,
    ) as checkin:
        print(f"The stand-in for EGI Check-in answers at {checkin.issuer}", flush=True)
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
