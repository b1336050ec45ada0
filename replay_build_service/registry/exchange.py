"""One request and its answer, with a server that may be broken or hostile.

Nothing is read beyond a limit, nothing is unpacked, no cookie is kept, redirects are counted and followed only where the
caller says so, and never with the credentials that were for another origin. This room knows HTTP and no image.
"""

from __future__ import annotations

import http.cookiejar
import os
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from replay_build_service.registry.faults import PassingFault, RegistryFault, misunderstood
from replay_build_service.registry.settings import RegistrySettings

MAX_REDIRECTS = 5
ERROR_LIMIT = 64 * 1024
"""Bytes that are read of an answer that is no success; the rest is left."""
MAX_CONNECTIONS = 20
KEPT_ALIVE = 30.0
"""Seconds for which an idle connection is kept."""
LONGEST_URL = 8192


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of one request, after redirects."""

    status: int
    headers: httpx.Headers
    body: bytes
    """Whole for a success. Of anything else the first ``ERROR_LIMIT`` bytes."""
    redirected: bool = False
    """It is another address's answer than the one that was asked."""

    @property
    def media_type(self) -> str:
        """Of the body, in lower case and without parameters; empty where it is not said."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def challenges(self) -> list[str]:
        """Each ``WWW-Authenticate`` header."""
        return self.headers.get_list("WWW-Authenticate")


def open_client(settings: RegistrySettings) -> httpx.AsyncClient:
    """The one connection pool to a registry and to where it leads. Raises `OSError` where its CA file cannot be read."""
    trusted = httpx.create_ssl_context(trust_env=False)
    for file in (os.environ.get("SSL_CERT_FILE"), settings.ca_file):
        if file:
            # Beside the public authorities, not instead: the storage that a registry redirects to is often a cloud's.
            trusted.load_verify_locations(cafile=file)
    no_cookies = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
    return httpx.AsyncClient(
        verify=trusted,
        timeout=settings.timeout / 2,
        limits=httpx.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=KEPT_ALIVE
        ),
        # What a few packed bytes become in memory has no limit: what comes packed is not unpacked, and makes no sense.
        headers={"User-Agent": "replay-build-service", "Accept-Encoding": "identity"},
        cookies=no_cookies,
        follow_redirects=False,
        trust_env=False,
    )


def leads_somewhere(url: httpx.URL) -> bool:
    """Whether a URL that a stranger gave can be asked at all: HTTP or HTTPS, a host, a port that exists, no credentials."""
    return (
        url.scheme in {"http", "https"}
        and bool(url.host)
        and (url.port is None or 0 < url.port < 65536)
        and not url.userinfo
        and len(str(url)) <= LONGEST_URL
    )


async def send(client: httpx.AsyncClient, request: httpx.Request, *, limit: int | None, follow: bool = False) -> Answer:
    """Ask, and follow redirects if ``follow``. Of a success at most ``limit`` bytes are read, none if it is ``None``.

    Raises `PassingFault` where no answer came, or one that is too long or leads nowhere.
    """
    try:
        return await _followed(client, request, limit, MAX_REDIRECTS if follow else 0)
    # httpx lets a few of the resolver's own errors through, for names that could not exist (UnicodeError).
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise _unanswered(error) from error


async def _followed(client: httpx.AsyncClient, request: httpx.Request, limit: int | None, redirects: int) -> Answer:
    redirected = False
    for _ in range(redirects + 1):
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            target = response.next_request
            if target is None or not redirects:
                return Answer(response.status_code, response.headers, await _body(response, limit), redirected)
        finally:
            # A redirect's own body is nothing that anybody needs, and it could be endless.
            await response.aclose()
        if not leads_somewhere(target.url):
            raise misunderstood("a redirect to what cannot be asked")
        if _origin(target.url) != _origin(request.url):
            target.headers.pop("Authorization", None)
        request, redirected = target, True
    raise misunderstood(f"more than {redirects} redirects")


async def _body(response: httpx.Response, limit: int | None) -> bytes:
    if response.is_success and limit is None and response.request.method != "HEAD":
        return b""
    kept = bytearray()
    async for part in response.aiter_raw():
        kept += part
        if response.is_success and len(kept) > (limit or 0):
            raise misunderstood("an answer beyond the limit")
        if not response.is_success and len(kept) >= ERROR_LIMIT:
            return bytes(kept[:ERROR_LIMIT])
    return bytes(kept)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _unanswered(error: Exception) -> PassingFault:
    kind = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return PassingFault(
                "The image registry's certificate is not one that Replay trusts. "
                "An administrator of this hub can name the file of its authority.",
                f"{kind}: {cause.verify_message}",
            )
        cause = cause.__cause__ or cause.__context__
    return PassingFault("The image registry does not answer just now. Try again in a moment.", kind)


def without_faults(answer: Answer) -> Answer:
    """The answer, unless it says that the server refuses, is busy or is broken. Raises `RegistryFault`.

    A 401 is for `authentication`; all that is left is for whoever asked.
    """
    match answer.status:
        case 403:
            raise not_allowed("403")
        case 429:
            raise PassingFault(
                "The image registry is being asked too much just now. Try again in a few minutes.",
                "429",
                after=retry_after(answer.headers),
            )
        case status if status >= 500 or status == 408:
            raise PassingFault(
                "The image registry has a problem of its own just now. Try again in a moment.",
                str(status),
                after=retry_after(answer.headers) if status == 503 else None,
            )
        case _:
            return answer


def not_allowed(detail: str) -> RegistryFault:
    """For an account that the registry knows and that may not do this."""
    return RegistryFault(
        "The image registry does not allow Replay to do this. An administrator of this hub has to look at its account.",
        detail,
    )


def unexpected(answer: Answer) -> RegistryFault:
    """For a status that the specification does not have there."""
    if answer.status == 405:
        return RegistryFault(
            "The image registry does not do what Replay asks of it. "
            "An administrator of this hub has to look at the registry's settings.",
            "405",
        )
    if 300 <= answer.status < 400:
        return PassingFault(
            "The image registry sends Replay elsewhere. An administrator of this hub has to look at the registry's URL.",
            str(answer.status),
        )
    return misunderstood(f"status {answer.status}")


def retry_after(headers: httpx.Headers, now: datetime | None = None) -> float | None:
    """Seconds that the server wants to be left alone, from now (RFC 9110, 10.2.3): a number or a date.

    ``None`` where it does not say, or not in a form that can be read.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        at = parsedate_to_datetime(text[:100])
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
