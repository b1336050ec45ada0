"""An application that logs people in at the stand-in for Check-in, without a hub: for tests of the stand-in itself."""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt

from demo.checkin import CheckinStandIn
from demo.people import Person

CALLBACK = "http://127.0.0.1:1/hub/oauth_callback"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
CREDENTIALS = {"client_id": "app", "client_secret": "secret"}


class Application:
    """A client of the stand-in that asks what a test wants asked, and checks nothing."""

    def __init__(self, checkin: CheckinStandIn) -> None:
        self.http = httpx.Client()
        self.known: dict[str, Any] = httpx.get(f"{checkin.issuer}/.well-known/openid-configuration").json()

    def ask(self, person: Person | None = None, **changes: str | None) -> httpx.Response:
        """The authorization request; with a person, that person's answer to it."""
        query = {
            "response_type": "code",
            "client_id": "app",
            "redirect_uri": CALLBACK,
            "scope": "openid profile email voperson_id eduperson_entitlement entitlements offline_access",
            "state": "state",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **changes,
        }
        params = {name: value for name, value in query.items() if value is not None}
        url = self.known["authorization_endpoint"]
        if person is None:
            return self.http.get(url, params=params)
        return self.http.post(url, params=params, data={"person": person.voperson_id})

    def code(self, person: Person, **changes: str | None) -> str:
        return answer_in(self.ask(person, **changes))["code"]

    def token(self, **changes: str) -> httpx.Response:
        form = {**CREDENTIALS, "redirect_uri": CALLBACK, "code_verifier": VERIFIER, **changes}
        return self.http.post(self.known["token_endpoint"], data={"grant_type": "authorization_code", **form})

    def log_in(self, person: Person, **changes: str | None) -> dict[str, Any]:
        """The tokens of one login."""
        answer = self.token(code=self.code(person, **changes))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refresh(self, refresh_token: str, **changes: str) -> httpx.Response:
        return self.token(grant_type="refresh_token", refresh_token=refresh_token, **changes)

    def userinfo(self, access_token: str) -> httpx.Response:
        return self.http.get(self.known["userinfo_endpoint"], headers={"Authorization": f"Bearer {access_token}"})

    def introspect(self, token: str) -> dict[str, Any]:
        return self.http.post(self.known["introspection_endpoint"], data={"token": token, **CREDENTIALS}).json()

    def verified(self, id_token: str) -> dict[str, Any]:
        """The claims of an ID token that is right in all that an application has to look at."""
        keys = jwt.PyJWKSet.from_dict(self.http.get(self.known["jwks_uri"]).json())
        key = keys[jwt.get_unverified_header(id_token)["kid"]]
        return jwt.decode(id_token, key, algorithms=["RS256"], audience="app", issuer=self.known["issuer"])


def answer_in(response: httpx.Response) -> dict[str, str]:
    """What a redirect carries."""
    assert response.status_code == 302
    return {name: values[0] for name, values in parse_qs(urlsplit(response.headers["location"]).query).items()}
