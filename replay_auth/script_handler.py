"""``POST /hub/replay/token``: an access token of the provider's buys a token of the hub's that lives no longer.

The request and its answer. What the provider's token proves is `replay_auth.scripts`. Neither cookies nor tokens of the hub
count here, so there is nothing that another site could use.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from jupyterhub.apihandlers.base import APIHandler
from tornado import web

from replay_auth.errors import NotAMember, Told
from replay_auth.scripts import ScriptProof, ScriptRefused, asking_address

_MOST_CHARACTERS = 8192
"""Of a token. Check-in's have about 1,400."""
_MOST_BODY = 10_000


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the script asks for; never more than the settings allow."""

    scopes: list[str]
    seconds: int


class ScriptTokenHandler(APIHandler):
    """For whoever has an access token of one of the clients in ``script_audiences``."""

    _accept_token_auth = False
    _accept_cookie_auth = False

    def check_xsrf_cookie(self) -> None:
        """Nothing of a browser's counts here."""

    @property
    def _hubs(self) -> Any:
        """The hub's authenticator, which is ours where our handlers are."""
        return self.authenticator

    async def post(self) -> None:
        """Answers 201 with the token, or with a sentence and the number by which the log has the reason."""
        try:
            limits = self._hubs.script_limits
            limits.of_address.take(self._address())
            wish, token = self._wish(), self._bearer()
            async with limits.places.one():
                proof = await self._hubs.script_proof(token)
            await self._sell(wish, proof)
        except ScriptRefused as refusal:
            self._refuse(refusal, refusal.reason)
        except NotAMember as refusal:
            self._refuse(refusal, f"{refusal.account.identifier} is in none of the permitted VOs")
        except Told as refusal:
            self._refuse(refusal, refusal.sentence)

    async def _sell(self, wish: _Wish, proof: ScriptProof) -> None:
        name = proof.model["name"]
        self._hubs.script_limits.of_person.take(name)
        # JupyterHub's own way of deciding about a login: its block list, check_allowed, the administrator's hook.
        allowed = await self._hubs.get_authenticated_user(self, proof)
        if not allowed:
            raise ScriptRefused(403, "This account may not use this hub.", reason=f"{name} is blocked")
        user = await self._user(allowed, proof)
        longest = self.settings.get("token_expires_in_max_seconds") or wish.seconds
        seconds = min(wish.seconds, proof.seconds_left(), longest)
        if seconds < 1:
            raise ScriptRefused(401, "This access token is about to expire. Get a new one.", reason="it expires now")
        try:
            text = user.new_api_token(
                note=f"Bought with a token of {proof.client}"[:200], expires_in=seconds, scopes=wish.scopes
            )
        except (ValueError, KeyError) as error:
            self.log.error("A script's token cannot be made for %s; look at script_scopes: %s", name, error)
            raise ScriptRefused(
                403, "This hub does not let you do what scripts may do here. Ask its administrators.", reason=str(error)
            ) from error
        expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
        self.log.info("A script of %s bought a token for %s s with one of %s", name, seconds, proof.client)
        self.set_status(201)
        self.set_header("Cache-Control", "no-store")
        self.finish(
            {
                "token": text,
                "user": name,
                "scopes": wish.scopes,
                "expires_in": seconds,
                "expires_at": expires_at.isoformat(timespec="seconds"),
            }
        )

    async def _user(self, allowed: dict[str, Any], proof: ScriptProof) -> Any:
        user: Any = self.find_user(allowed["name"])
        if user is None:
            if not self._hubs.scripts_may_create_users:
                raise ScriptRefused(
                    403,
                    "This hub does not know you yet. Log in with a browser once, then try again.",
                    reason=f"{allowed['name']} has never logged in",
                )
            return await self.auth_to_user(allowed)
        if not await self._hubs.keep_script(user, proof.model["auth_state"]):
            # There is no record of a login, so none that could be overwritten.
            return await self.auth_to_user(allowed, user)
        return user

    def _address(self) -> str:
        # Not `remote_ip`: tornado takes that from X-Real-Ip, which the hub's proxy passes on as anybody sent it.
        context: Any = cast("Any", self.request.connection).context
        peer = context.address[0] if isinstance(context.address, tuple) else "a socket"
        forwarded = self.request.headers.get_list("X-Forwarded-For")
        return asking_address(str(peer), forwarded, frozenset(context.trusted_downstream))

    def _bearer(self) -> str:
        kind, _, token = self.request.headers.get("Authorization", "").partition(" ")
        token = token.strip()
        if kind.lower() != "bearer" or not token or len(token) > _MOST_CHARACTERS or not token.isascii():
            raise ScriptRefused(
                401,
                "Send an access token of your own in the header “Authorization: Bearer …”.",
                reason="there is no token in the request",
            )
        return token

    def _wish(self) -> _Wish:
        settings = self._hubs
        wish = _Wish(list(settings.script_scopes), settings.script_token_seconds)
        if len(self.request.body) > _MOST_BODY:
            raise _bad("The body is too large.")
        try:
            body: Any = self.get_json_body() or {}
        except web.HTTPError as error:
            raise _bad("The body has to be a JSON object, or empty.") from error
        if not isinstance(body, dict) or body.keys() - {"scopes", "expires_in"}:
            raise _bad("The body has to be a JSON object with “scopes” and “expires_in”, both optional.")
        scopes = body.get("scopes", wish.scopes)
        if not isinstance(scopes, list) or not scopes or not all(scope in wish.scopes for scope in scopes):
            raise _bad(f"“scopes” has to be a list of some of these: {', '.join(wish.scopes)}.")
        seconds = body.get("expires_in", wish.seconds)
        if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 1:
            raise _bad("“expires_in” has to be a number of seconds, at least 1.")
        return _Wish(scopes, min(seconds, wish.seconds))

    def _refuse(self, refusal: Told, reason: str) -> None:
        report = secrets.token_hex(4)
        self.log.warning("Refused a script [%s]: %s", report, reason)
        self.set_status(refusal.status_code)
        for name, value in (getattr(refusal, "headers", None) or {}).items():
            self.set_header(name, value)
        if refusal.status_code == 401:
            self.set_header("WWW-Authenticate", 'Bearer error="invalid_token"')
        self.set_header("Cache-Control", "no-store")
        self.finish({"status": refusal.status_code, "message": refusal.sentence, "report": report})


def _bad(sentence: str) -> ScriptRefused:
    return ScriptRefused(400, sentence, reason="the request is not of the form")
