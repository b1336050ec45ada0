"""The hub: whether it takes the service's token, with the scopes that the service needs, and what it says of the culler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast
from urllib.parse import quote

import psutil
from pydantic import BaseModel, ValidationError

from replay_build_service.doctor.access import HubAccess, NoAccess
from replay_build_service.doctor.asking import Answer, NoAnswer, fetch
from replay_build_service.doctor.deployment import Deployment
from replay_build_service.doctor.verdicts import Verdict, failed, not_known, ok

NEEDED_SCOPES = ("servers", "read:servers", "read:users:name", "read:users:groups")
"""All that the service asks of the hub, see `replay_build_service.hub`. Without the last it starts and works, and does not see
that somebody has left the VO of a session."""

_READ_SERVICES = "read:services"
_USUAL_CULLERS = ("idle-culler", "jupyterhub-idle-culler", "jupyterhub-idle-culler-service", "cull-idle")


class _Refused(Exception):
    """The hub cannot be asked, or does not answer as a hub does."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict


class _Identity(BaseModel):
    """``GET user``: who a token is."""

    kind: str
    name: str
    scopes: list[str]


class _Service(BaseModel):
    """``GET services/NAME``, as much of it as the scopes show."""

    name: str
    command: list[str] | str | None = None
    pid: int | None = None


async def check_hub(deployment: Deployment) -> Verdict:
    """Whether the hub takes the token, and the scopes that it has."""
    try:
        identity = await _identity(deployment.hub)
    except _Refused as refused:
        return refused.verdict
    who = f"the {identity.kind} “{identity.name}”"
    held = {scope.partition("!")[0] for scope in identity.scopes}
    missing = [scope for scope in NEEDED_SCOPES if scope not in held]
    role = _role(identity.name, NEEDED_SCOPES)
    if missing:
        return failed(
            f"The hub knows the token as {who}, which lacks the scope {', '.join(missing)}.",
            f"Add the role to c.JupyterHub.load_roles and restart the hub: {role}.",
        )
    partial = [scope for scope in NEEDED_SCOPES if scope not in identity.scopes]
    if partial:
        return not_known(
            f"The hub knows the token as {who}, whose scope {', '.join(partial)} holds for some people only; others' "
            "launches fail.",
            f"If that is not meant, give it without a filter: {role}.",
        )
    return ok(f"The hub knows the token as {who}, with the scopes that it needs.")


async def check_culler(deployment: Deployment) -> Verdict:
    """Whether a culler of idle servers is registered at the hub and runs, as far as the token may know."""
    try:
        identity = await _identity(deployment.hub)
        names = _culler_names(deployment, identity)
        readable = [name for name in names if _may_read(identity, name)]
        if not readable:
            return _culler_unread(deployment, identity)
        for name in readable:
            service = await _service(deployment.hub, name)
            if service is not None:
                return _culler_judged(deployment, service)
    except _Refused:
        return not_known("The hub cannot be asked for the culler.", "First see to what is said of “hub”.")
    return failed(
        f"No culler is registered at the hub (looked for {', '.join(readable)}): sessions that nobody uses go on for ever.",
        "Add replay_spawner.idle.culler_service to c.JupyterHub.services and its role, as jupyterhub_config.py of Replay has it.",
    )


# ---- the culler


def _culler_names(deployment: Deployment, identity: _Identity) -> Sequence[str]:
    """What it may be called: as the configuration has it, or else as a scope has it, or what is usual."""
    filters = [scope.partition("!service=")[2] for scope in identity.scopes if scope.startswith(f"{_READ_SERVICES}!")]
    named = [name for name in filters if "cull" in name]
    return _configured_cullers(deployment) or [*named, *_USUAL_CULLERS]


def _configured_cullers(deployment: Deployment) -> Sequence[str]:
    return [str(entry["name"]) for entry in deployment.hub_services if "name" in entry and _is_culler(entry)]


def _is_culler(entry: Mapping[str, object]) -> bool:
    command = entry.get("command")
    words = command if isinstance(command, str) else " ".join(map(str, _members(command)))
    return "idle_culler" in words or "idle-culler" in words or "cull_idle" in words


def _members(value: object) -> Sequence[object]:
    return cast("list[object]", value) if isinstance(value, list) else ()


def _may_read(identity: _Identity, name: str) -> bool:
    return _READ_SERVICES in identity.scopes or f"{_READ_SERVICES}!service={name}" in identity.scopes


def _culler_unread(deployment: Deployment, identity: _Identity) -> Verdict:
    configured = _configured_cullers(deployment)
    name = configured[0] if configured else _USUAL_CULLERS[0]
    seen = f"The configuration has the culler “{name}”" if configured else "This configuration names no culler"
    scopes = (*NEEDED_SCOPES, f"{_READ_SERVICES}!service={name}")
    return not_known(
        f"{seen}; what the hub itself has, the service's token may not read.",
        f"See that the hub's log tells of its start, or let the token read it: {_role(identity.name, scopes)}.",
    )


def _culler_judged(deployment: Deployment, service: _Service) -> Verdict:
    named = f"The culler “{service.name}” is registered at the hub"
    if not service.command:
        return not_known(
            f"{named}, which does not run it itself.", "See that it runs where you have it run, and read its log."
        )
    if not service.pid:
        return failed(f"{named} and was not started.", "Read the hub's log of its start, and restart the hub.")
    if _runs_here(service):
        return ok(f"{named} and runs (process {service.pid}).")
    if isinstance(deployment.hub, HubAccess) and deployment.hub.hub_is_here:
        return failed(
            f"{named}, and its process {service.pid} has ended.",
            "The hub starts it anew within a minute; if this comes again, the hub's log says why it ends.",
        )
    return ok(
        f"{named}, which has started it (process {service.pid} there; whether that still runs is not seen from here)."
    )


def _runs_here(service: _Service) -> bool:
    words = " ".join(service.command) if isinstance(service.command, list) else service.command or ""
    with suppress(psutil.Error):
        process = psutil.Process(service.pid)
        is_it = _is_culler({"command": " ".join(process.cmdline())}) or " ".join(process.cmdline()) == words
        return is_it and process.status() != psutil.STATUS_ZOMBIE
    return False


# ---- asking


def _role(name: str, scopes: Sequence[str]) -> str:
    listed = ", ".join(f'"{scope}"' for scope in scopes)
    return f'{{"name": "{name}", "services": ["{name}"], "scopes": [{listed}]}}'


async def _identity(hub: HubAccess | NoAccess) -> _Identity:
    answer = await _ask(hub, "user")
    if answer.status in {401, 403}:
        raise _Refused(
            failed(
                "The hub does not know the service's token.",
                "If you named it, take the token of the service; else restart the hub, which gives its service a new one. On "
                "Kubernetes see that both read the same Secret.",
            )
        )
    try:
        if answer.status == 200:
            return _Identity.model_validate_json(answer.body)
    except ValidationError:
        pass
    raise _Refused(_no_hub(hub, f"answers {answer.status}, and not as a hub does"))


async def _service(hub: HubAccess | NoAccess, name: str) -> _Service | None:
    answer = await _ask(hub, f"services/{quote(name, safe='')}")
    if answer.status == 404:
        return None
    try:
        return _Service.model_validate_json(answer.body)
    except ValidationError as error:
        raise _Refused(_no_hub(hub, f"answers {answer.status} when asked for a service")) from error


async def _ask(hub: HubAccess | NoAccess, path: str) -> Answer:
    if isinstance(hub, NoAccess):
        verdict = failed if hub.is_fault else not_known
        raise _Refused(verdict(hub.message, hub.remedy))
    try:
        return await fetch(f"{hub.api_url}{path}", headers={"Authorization": f"token {hub.token}"})
    except NoAnswer as reason:
        raise _Refused(_no_hub(hub, f"does not answer: {reason}")) from reason


def _no_hub(hub: HubAccess | NoAccess, what: str) -> Verdict:
    address = hub.api_url if isinstance(hub, HubAccess) else "The hub"
    return failed(
        f"{address} {what}.",
        "See that the hub runs, and that c.JupyterHub.hub_connect_url (JUPYTERHUB_API_URL) leads to it from here.",
    )
