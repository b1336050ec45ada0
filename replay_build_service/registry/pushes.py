"""What a registry's answers to a push mean: where a blob goes to, and whether it is there now."""

from __future__ import annotations

import httpx

from replay_build_service.registry.exchange import Answer, leads_somewhere, unexpected
from replay_build_service.registry.faults import RegistryFault, misunderstood


def upload_path(answer: Answer, base_url: str, digest: str) -> str:
    """Path and query by which a blob is uploaded that was announced (“Pushing blobs”, “POST then PUT”).

    The registry says where, relative or whole. It has to be the registry itself, since the account goes there. Raises
    `RegistryFault`.
    """
    if answer.status != 202:
        raise refused_push(answer)
    try:
        url = httpx.URL(base_url).join(answer.headers.get("Location", ""))
    except httpx.InvalidURL as error:
        raise misunderstood("an upload to what is no URL") from error
    registry = httpx.URL(base_url)
    if not leads_somewhere(url) or not url.path.startswith("/v2/"):
        raise misunderstood("an upload that leads nowhere")
    if (url.scheme, url.host, url.port) != (registry.scheme, registry.host, registry.port):
        raise RegistryFault(
            f"The image registry sends uploads to {url.scheme}://{url.netloc.decode('ascii')}, which is not where it was "
            "asked. What stands before it has to hand on the name and the scheme that it was asked by "
            "(Host, X-Forwarded-Proto).",
            "an upload elsewhere",
        )
    separator = "&" if url.query else "?"
    return f"{url.raw_path.decode('ascii')}{separator}digest={digest}"


def check_stored(answer: Answer) -> None:
    """Raises `RegistryFault` where a blob or a manifest was not taken."""
    if answer.status != 201:
        raise refused_push(answer)


def refused_push(answer: Answer) -> RegistryFault:
    """For what is no success of a push."""
    match answer.status:
        case 404:
            return RegistryFault(
                "The image registry has no such repository, and makes none when something is pushed.", "404"
            )
        case 405:
            return RegistryFault("The image registry takes no pushes: it is set to be read only.", "405")
        case _:
            return unexpected(answer)
