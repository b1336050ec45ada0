"""What people's browsers ask for: badges and links, by the hub's public address."""

from __future__ import annotations

from urllib.parse import urlsplit

from replay_build_service.doctor.asking import Answer, NoAnswer, fetch
from replay_build_service.doctor.deployment import Deployment
from replay_build_service.doctor.verdicts import Verdict, failed, not_known, ok

_LINK, _REPOSITORY = "/v2/gh/EGI-Federation/binder-example/HEAD", b"EGI-Federation/binder-example"
"""A link, and what its page has to name. Opening it without a login asks nobody and starts nothing."""


async def check_badge(deployment: Deployment) -> Verdict:
    """Whether badges come from the service."""
    url = _public_url(deployment)
    if isinstance(url, Verdict):
        return url
    answer = await _fetched(url, "/badge.svg")
    if isinstance(answer, Verdict):
        return answer
    if answer.status == 200 and answer.content_type == "image/svg+xml" and b"Replay" in answer.body:
        return ok(f"{url}/badge.svg is the service's badge.")
    return failed(
        f"{url}/badge.svg is not the service's badge ({answer.status}, {answer.content_type or 'no type'}): badges on "
        "people's pages stay empty.",
        'Lead “/badge.svg/” and “/badge_logo.svg/” to the service: c.Proxy.extra_routes = {"/badge.svg/": "http://HOST:PORT", '
        "…}, or the ingress. If they do, the service is down.",
    )


async def check_links(deployment: Deployment) -> Verdict:
    """Whether links are answered by Replay's page in the hub."""
    url = _public_url(deployment)
    if isinstance(url, Verdict):
        return url
    answer = await _fetched(url, _LINK)
    if isinstance(answer, Verdict):
        return answer
    if answer.status == 200 and answer.path.endswith(_LINK) and _REPOSITORY in answer.body:
        return ok(f"{url}/v2/… is answered by the hub, without a login.")
    return failed(
        f"{url}{_LINK} is not answered by Replay's page ({answer.status} at {answer.path}).",
        "Set c.JupyterHub.extra_handlers = replay_spawner.link_handlers(SERVICE_URL, TOKEN_FILE) and see that nothing before "
        "the hub takes /v2/ for itself.",
    )


def _public_url(deployment: Deployment) -> str | Verdict:
    url = deployment.settings.public_url.rstrip("/")
    if not url:
        return not_known(
            "The configuration does not say by which address people reach the hub.",
            "Set c.ReplayBuildService.public_url to it.",
        )
    if not _is_origin(url):
        return failed(
            f"c.ReplayBuildService.public_url is {url!r}, which is no address of a host.",
            "It reads https://host[:port].",
        )
    return url


def _is_origin(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.path


async def _fetched(url: str, path: str) -> Answer | Verdict:
    try:
        return await fetch(f"{url}{path}", follow_redirects=True)
    except NoAnswer as reason:
        if reason.is_silence:
            return not_known(
                f"{url} does not answer from here: {reason}. People outside may reach it all the same.",
                "Open it in a browser.",
            )
        return failed(
            f"{url}{path} does not answer: {reason}.",
            "See that the hub's proxy or the ingress runs, that public_url is spelt right and that its certificate is one that "
            "browsers trust (SSL_CERT_FILE names authorities of your own).",
        )
