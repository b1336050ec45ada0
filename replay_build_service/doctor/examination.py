"""All checks at once, each within its time, and how they are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from replay_build_service.doctor.addresses import check_badge, check_links
from replay_build_service.doctor.database import check_database
from replay_build_service.doctor.deployment import Deployment
from replay_build_service.doctor.hub import check_culler, check_hub
from replay_build_service.doctor.image_registry import check_registry
from replay_build_service.doctor.kubernetes import check_build_pods, check_engine, check_rights
from replay_build_service.doctor.login import check_login
from replay_build_service.doctor.service import check_service, check_token
from replay_build_service.doctor.verdicts import State, Verdict, failed

MOST_SECONDS = 10.0
"""That any one check may take."""


@dataclass(frozen=True, slots=True)
class Check:
    """One subject, by the name that the output has for it."""

    name: str
    run: Callable[[Deployment], Awaitable[Verdict]]


CHECKS = (
    Check("login", check_login),
    Check("hub", check_hub),
    Check("culler", check_culler),
    Check("service", check_service),
    Check("token", check_token),
    Check("database", check_database),
    Check("registry", check_registry),
    Check("engine", check_engine),
    Check("rights", check_rights),
    Check("build pods", check_build_pods),
    Check("badge", check_badge),
    Check("links", check_links),
)
"""In the order in which they are told. None waits for another."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check."""

    check: str
    verdict: Verdict


async def findings(deployment: Deployment, *, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """Of all checks, in their order."""
    verdicts = await asyncio.gather(*(_in_time(check, deployment) for check in checks))
    return [Finding(check.name, verdict) for check, verdict in zip(checks, verdicts, strict=True)]


async def _in_time(check: Check, deployment: Deployment) -> Verdict:
    try:
        async with asyncio.timeout(MOST_SECONDS):
            return await check.run(deployment)
    except TimeoutError:
        return failed(
            f"This was not done after {MOST_SECONDS:g} seconds.",
            "Something answers very slowly: look at the load, the log and the network of what this is about.",
        )


def as_lines(found: Sequence[Finding]) -> str:
    """One line for each check."""
    lines = [
        " ".join(filter(None, (f"{one.verdict.state:<9} {one.check:<10}", one.verdict.message, _to_do(one.verdict))))
        for one in found
    ]
    return "\n".join(lines)


def _to_do(verdict: Verdict) -> str:
    """On the same line, set off from what was found."""
    return f"→ {verdict.remedy}" if verdict.remedy else ""


def as_json(found: Sequence[Finding]) -> str:
    """For programs: ``{"ok": …, "checks": [{"check", "state", "message", "remedy"}, …]}``."""
    checks = [
        {"check": one.check, "state": one.verdict.state, "message": one.verdict.message, "remedy": one.verdict.remedy}
        for one in found
    ]
    return json.dumps({"ok": not has_failed(found), "checks": checks}, indent=1, ensure_ascii=False)


def has_failed(found: Sequence[Finding]) -> bool:
    """Whether any check found a fault; what is not known is none."""
    return any(one.verdict.state is State.FAILED for one in found)


def examine(deployment: Deployment, *, as_json_text: bool = False) -> bool:
    """Do all checks, print what they found, and say whether all is well."""
    found = asyncio.run(findings(deployment))
    print(as_json(found) if as_json_text else as_lines(found))
    return not has_failed(found)
