"""The login: EGI Check-in's discovery document, as the authenticator in the hub reads it.

The authenticator's settings are read from the configuration by their names: nothing here imports it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast
from urllib.parse import urlsplit

from replay_build_service.doctor.asking import NoAnswer, fetch
from replay_build_service.doctor.deployment import Deployment
from replay_build_service.doctor.verdicts import Verdict, failed, not_known, not_used, ok

_CLASS = "EGICheckinAuthenticator"
_ENTRY_POINT = "egi-checkin"
_DEFAULT_ISSUER = "https://aai.egi.eu/auth/realms/egi"
_ENDPOINTS = {
    "authorize_url": "authorization_endpoint",
    "token_url": "token_endpoint",
    "userdata_url": "userinfo_endpoint",
    "jwks_url": "jwks_uri",
}
"""The authenticator's setting, and where the document tells the same."""

DEFAULT_SCOPES = (
    "openid",
    "profile",
    "email",
    "voperson_id",
    "eduperson_entitlement",
    "entitlements",
    "offline_access",
)
"""The authenticator's, which this package may not import; a test holds them together."""
_MEMBERSHIPS = frozenset({"eduperson_entitlement", "entitlements"})
"""Two names of one scope: Check-in may know one of them only."""


async def check_login(deployment: Deployment) -> Verdict:
    """Whether Check-in's configuration can be read, is that issuer's own, and has what a login needs."""
    settings = _settings(deployment)
    if isinstance(settings, Verdict):
        return settings
    if all(settings.get(name) for name in _ENDPOINTS):
        return not_used("The addresses of the login are set one by one, so no discovery document is read.")
    issuer = str(settings.get("issuer") or _DEFAULT_ISSUER)
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    try:
        answer = await fetch(url, headers={"Accept": "application/json"})
    except NoAnswer as reason:
        return failed(
            f"{url} does not answer: {reason}.",
            f"See that {_CLASS}.issuer is spelt right, and that this machine and the hub's may reach it.",
        )
    document = _document(answer.body) if answer.status == 200 else None
    if document is None:
        return failed(
            f"{url} answers {answer.status}, and not with a provider's configuration.",
            f"Set {_CLASS}.issuer to Check-in's issuer, such as {_DEFAULT_ISSUER}.",
        )
    return _judged(url, issuer, settings, document)


def _settings(deployment: Deployment) -> Mapping[str, object] | Verdict:
    """The authenticator's, with those of the classes between; or that there is none."""
    chosen = deployment.section("JupyterHub").get("authenticator_class")
    names = [_CLASS]
    if isinstance(chosen, type):
        names = [parent.__name__ for parent in reversed(chosen.__mro__)]
    elif isinstance(chosen, str) and chosen != _ENTRY_POINT:
        names.append(chosen.rpartition(".")[2])
    is_ours = _CLASS in names if isinstance(chosen, type) else names[-1] == _CLASS or deployment.has_section(_CLASS)
    if chosen is None and not deployment.has_section(_CLASS):
        return not_known(
            "This configuration says nothing of how people log in.",
            "Where they log in with EGI Check-in, name the hub's own configuration file with --config; on Kubernetes run this "
            "in the hub's pod, too.",
        )
    if not is_ours:
        return not_used("People log in by something else than EGI Check-in.")
    return deployment.section(*names)


def _document(body: bytes) -> Mapping[str, object] | None:
    try:
        value: object = json.loads(body)
    except ValueError:
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def _judged(url: str, issuer: str, settings: Mapping[str, object], document: Mapping[str, object]) -> Verdict:
    told = document.get("issuer")
    if told != issuer:
        return failed(
            f"{url} is the configuration of the issuer {told!r}, and not of {issuer!r}.",
            f"Set {_CLASS}.issuer to exactly what it says there, to the last slash.",
        )
    schemes = {"https", urlsplit(issuer).scheme}
    for name, key in _ENDPOINTS.items():
        address = document.get(key)
        if not settings.get(name) and _scheme(address) not in schemes:
            return failed(
                f"{url} has {address!r} as {key}.", f"Ask those who run the provider, or set {_CLASS}.{name} yourself."
            )
    return _scopes_judged(issuer, _wanted_scopes(settings), document.get("scopes_supported"))


def _scheme(address: object) -> str:
    """Empty for what is no URL."""
    try:
        return urlsplit(address).scheme if isinstance(address, str) else ""
    except ValueError:
        return ""


def _wanted_scopes(settings: Mapping[str, object]) -> Sequence[str]:
    told = settings.get("scope")
    return [str(one) for one in cast("list[object]", told)] if isinstance(told, list) and told else DEFAULT_SCOPES


def _scopes_judged(issuer: str, wanted: Sequence[str], told: object) -> Verdict:
    if not isinstance(told, list):
        return ok(f"The configuration of {issuer} has what a login needs; it does not say which scopes it knows.")
    known = {str(one) for one in cast("list[object]", told)}
    if known & _MEMBERSHIPS:
        known |= _MEMBERSHIPS
    missing = [scope for scope in wanted if scope not in known]
    if missing:
        return failed(
            f"{issuer} does not know the scope {', '.join(missing)}, which the login asks for.",
            f"See that {_CLASS}.issuer is Check-in and not another provider, or set {_CLASS}.scope to what it knows.",
        )
    return ok(f"The configuration of {issuer} has the endpoints and scopes that a login needs.")
