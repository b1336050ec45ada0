"""The two handlers of a login, and the pages with which they answer where it cannot be finished.

A page is made from templates of this package alone: no script, no request to anywhere. Who may enter is not decided
here; the handlers ask the authenticator, and turn its errors into pages.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

# The state's format is oauthenticator's own, and it has no public reader.
from oauthenticator.oauth2 import (
    OAuthCallbackHandler,
    OAuthLoginHandler,
    _deserialize_state,  # pyright: ignore[reportPrivateUsage] - as said above
    _serialize_state,  # pyright: ignore[reportPrivateUsage] - as said above
)
from tornado import web
from tornado.httpclient import HTTPClientError

from replay_auth.errors import LoginRefused, NotAMember, ProviderFault, Told


class CheckinLogin(Protocol):
    """What the handlers ask of the hub's authenticator."""

    @property
    def login_service(self) -> str:
        """The provider's name, for sentences."""
        ...

    @property
    def permitted_vos(self) -> Mapping[str, str]:
        """The name of each permitted VO, and where to ask for membership."""
        ...

    def login_url(self, base_url: str) -> str:
        """Where a login starts."""
        ...

    async def know_endpoints(self) -> None:
        """Raises `ProviderFault`."""
        ...


@cache
def _pages() -> Environment:
    return Environment(loader=PackageLoader("replay_auth"), autoescape=True, undefined=StrictUndefined)


class OwnPage:
    """A handler that can answer with one of our pages: self-contained, no script, no request to anywhere."""

    @property
    def checkin(self: Any) -> CheckinLogin:
        """The hub's authenticator, which is ours where our handlers are."""
        return self.authenticator

    def tell(self: Any, status: int, template: str, **values: object) -> None:
        """Finish the request with this page. ``values`` may hold untrusted text: all of it is escaped."""
        nonce = secrets.token_urlsafe(16)
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'",
        )
        provider = self.checkin.login_service
        self.finish(_pages().get_template(template).render(nonce=nonce, provider=provider, **values))

    def tell_fault(self: Any, status: int, sentence: str, next_url: str, reason: str = "") -> None:
        """A page for a login that could not be finished through no fault of the person's; ``reason`` is for the log."""
        report = secrets.token_hex(4)
        self.log.error("Login could not be finished [%s]: %s", report, reason or sentence)
        if status == 503:
            self.set_header("Retry-After", "30")
        self.tell(status, "fault.html", sentence=sentence, report=report, again_url=self.login_again_url(next_url))

    def login_again_url(self: Any, next_url: str, prompt: str = "") -> str:
        """Where a login starts, with what of the present one has to be kept."""
        query = {name: value for name, value in (("prompt", prompt), ("next", next_url)) if value}
        url = self.checkin.login_url(self.hub.base_url)
        return f"{url}?{urlencode(query)}" if query else url


class CheckinLoginHandler(OwnPage, OAuthLoginHandler):
    """Sends the browser to the provider. ``?prompt=login`` makes the provider ask again who is there."""

    # tornado awaits what a handler's method returns; oauthenticator's happens to be synchronous.
    async def get(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as said above
        try:
            await self.checkin.know_endpoints()
        except ProviderFault as fault:
            self.tell_fault(fault.status_code, fault.sentence, self._get_next_url() or "")
            return
        super().get()

    def set_state_cookie(self, state_cookie_value: str) -> None:
        """With the nonce that the ID token of this login has to hold. The cookie is signed, and for one login."""
        self._nonce = secrets.token_urlsafe(32)
        state = {**_deserialize_state(state_cookie_value), "nonce": self._nonce}
        super().set_state_cookie(_serialize_state(state))

    def authorize_redirect(self, *args: Any, extra_params: dict[str, Any] | None = None, **kwargs: Any) -> None:
        # Only here, so that it holds for this request alone: extra_authorize_params are everybody's.
        extra_params = {**(extra_params or {}), "nonce": self._nonce}
        if self.get_argument("prompt", "") == "login":
            extra_params["prompt"] = "login"
        super().authorize_redirect(*args, extra_params=extra_params, **kwargs)


class CheckinCallbackHandler(OwnPage, OAuthCallbackHandler):
    """Receives the browser back from the provider, and tells a refused person what would let them in."""

    async def get(self) -> None:
        try:
            await super().get()
        except NotAMember as refusal:
            self._tell_refusal(refusal)
        except LoginRefused as refusal:
            self.tell_fault(refusal.status_code, refusal.sentence, self._wanted_url(), refusal.reason)
        except Told as fault:
            self.tell_fault(fault.status_code, fault.sentence, self._wanted_url())
        except HTTPClientError as error:
            # The provider's own words are in the log already; they are not for the person.
            provider = self.checkin.login_service
            sentence = f"{provider} did not accept this login (it answered {error.code}). Log in again."
            self.tell_fault(502, sentence, self._wanted_url())

    def login_nonce(self) -> str:
        """What the ID token of this login has to hold. Raises `LoginRefused` where the browser brings none."""
        nonce = _deserialize_state(self.get_state_cookie()).get("nonce")
        if not nonce:
            raise self._no_login_of_this_browser("the state has no nonce")
        return str(nonce)

    def check_error(self) -> None:
        """Raises `LoginRefused`, with words of our own: those in the address could be anybody's."""
        if self.get_argument("error", ""):
            told = [self.get_argument(name, "")[:200] for name in ("error", "error_description")]
            provider = self.checkin.login_service
            raise LoginRefused(
                f"{provider} did not log you in: it was cancelled there, or refused. Log in again.",
                reason=f"the provider's answer is an error: {told!r}",
                status=400,
            )

    def check_code(self) -> None:
        """Raises `LoginRefused`."""
        if not self.get_argument("code", ""):
            raise self._no_login_of_this_browser("there is no code")

    def check_state(self) -> None:
        """Raises `LoginRefused` unless this answer belongs to the last login that this browser began and did not finish."""
        try:
            super().check_state()
        except (web.HTTPError, ValueError, AttributeError) as error:  # the last two for a state that is none
            raise self._no_login_of_this_browser(str(error)) from error

    def _no_login_of_this_browser(self, reason: str) -> LoginRefused:
        return LoginRefused(
            "This login was not begun in this browser, it has been used already, or another one was begun after it. "
            "Log in again.",
            reason=reason[:300],
            status=400,
        )

    def _tell_refusal(self, refusal: NotAMember) -> None:
        report = secrets.token_hex(4)
        self.log.warning("Refused %s [%s]: in none of the permitted VOs", refusal.account.identifier, report)
        self.tell(
            refusal.status_code,
            "refused.html",
            sentence=refusal.sentence,
            account=refusal.account,
            vos=sorted(self.checkin.permitted_vos.items()),
            report=report,
            other_account_url=self.login_again_url(self._wanted_url(), prompt="login"),
        )

    def _wanted_url(self) -> str:
        """The page that the login was for; empty where the person named none."""
        state = self.get_state_cookie()
        return str(_deserialize_state(state).get("next_url") or "") if state else ""
