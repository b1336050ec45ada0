"""``replay-build-service policy``: is a file of policies good, what is its schema, and what would happen to whom, by which rule."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from replay_build_service.assembly import UnusableSettings
from replay_build_service.assembly.policies import make_policies
from replay_build_service.db import Store, is_there, open_database, shown_url
from replay_build_service.doctor import DoctorOptions, find_access
from replay_build_service.doctor.access import NoAccess
from replay_build_service.domain import Person
from replay_build_service.errors import ReplayError
from replay_build_service.hub import HubClient
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.permissions import Permissions
from replay_build_service.policies import Explanation, Outcome, PolicySet, Question
from replay_build_service.policy_file import UnusablePolicies, read_policies
from replay_build_service.policy_schema import json_schema
from replay_build_service.settings import ServiceSettings

POLICY_HELP = (
    "“policy check FILE”: end with 1 and the line of each fault where a file of policies cannot be used. “policy schema”: its JSON "
    "schema. “policy explain --user NAME --repo LINK [--vo VO] [--groups A,B]” with the configuration of “run”: what would happen, "
    "and which rule decides; without --groups the hub is asked, as by “doctor”."
)


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """What the command line says, beside what all commands take."""

    action: str = ""
    file: str = ""
    user: str = ""
    repo: str = ""
    vo: str | None = None
    groups: str | None = None
    access: DoctorOptions = field(default_factory=DoctorOptions)


def parse_policy_options(arguments: Sequence[str]) -> tuple[PolicyOptions, list[str]]:
    """The command's own options, and the arguments that are left. Ends the process where something is missing."""
    action, rest = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    parser = argparse.ArgumentParser(prog=f"replay-build-service policy {action}", add_help=False, allow_abbrev=False)
    match action:
        case "check":
            if not rest or rest[0].startswith("-"):
                sys.exit("Name the file: replay-build-service policy check FILE.")
            return PolicyOptions(action, file=rest[0]), rest[1:]
        case "schema":
            return PolicyOptions(action), rest
        case "explain":
            parser.add_argument("--user", required=True)
            parser.add_argument("--repo", required=True)
            parser.add_argument("--vo")
            parser.add_argument("--groups")
            parser.add_argument("--api-url", default="")
            parser.add_argument("--token-file", default="")
            known, others = parser.parse_known_args(rest)
            access = DoctorOptions(api_url=known.api_url, token_file=known.token_file)
            return PolicyOptions(action, "", known.user, known.repo, known.vo, known.groups, access), others
        case _:
            sys.exit(f"{POLICY_HELP.replace('“', '').replace('”', '')}")


def run_policy(options: PolicyOptions, settings: ServiceSettings, database_url: str, upgrade_command: str) -> None:
    """Do what the options say. Raises `UnusablePolicies`, `UnusableSettings` and `UnusableDatabase`."""
    match options.action:
        case "check":
            found = read_policies(options.file)
            print(f"{options.file}: policies for {', '.join(policy.vo for policy in found.policies)}.")
        case "schema":
            print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        case _:
            policies = make_policies(settings)
            try:
                print(asyncio.run(_explain(options, settings, policies, database_url, upgrade_command)))
            except ReplayError as error:
                sys.exit(error.sentence)


async def _explain(
    options: PolicyOptions, settings: ServiceSettings, policies: PolicySet, database_url: str, upgrade_command: str
) -> str:
    repo = link_text(options.repo)
    person = Person(options.user, await _groups(options, settings))
    async with AsyncExitStack() as resources:
        notes: list[str] = []
        if is_there(database_url):
            store = Store(await resources.enter_async_context(open_database(database_url, upgrade_command)))
            explanation = await Permissions(policies, store, store).explain(person, repo, options.vo)
        else:
            notes.append(
                f"There is no database {shown_url(database_url)}: nothing is counted, and no manager has decided anything."
            )
            question = Question(person, Repository.of_url(RepoSpec.parse(repo).url))
            explanation = policies.explain(question, options.vo, {})
    return "\n".join([told(explanation, person, repo), *notes])


def link_text(link: str) -> str:
    """``<provider>/<spec>``, also from a whole link."""
    return link.partition("/v2/")[2].partition("?")[0] if "/v2/" in link else link


async def _groups(options: PolicyOptions, settings: ServiceSettings) -> frozenset[str]:
    if options.groups is not None:
        return frozenset(group.strip() for group in options.groups.split(",") if group.strip())
    access = find_access(options.access, settings.config_file, settings.api_token_file)
    if isinstance(access, NoAccess):
        raise UnusableSettings(f"{access.message} Name the person's groups with --groups A,B. Or: {access.remedy}")
    async with HubClient(access.api_url, access.token) as hub:
        groups = await hub.groups(options.user)
    if groups is None:
        raise UnusableSettings(
            f"The hub does not tell the groups of {options.user!r}: it knows nobody of that name, or the service lacks the scope "
            "read:users:groups. Name them with --groups A,B."
        )
    return groups


def told(explanation: Explanation, person: Person, repo: str) -> str:
    """The whole explanation, in lines."""
    verdict = "may be launched" if explanation.is_allowed else "is refused"
    for_vo = f" for {explanation.vo}" if explanation.vo else ""
    groups = ", ".join(sorted(person.groups)) or "no group"
    lines = [f"{repo} {verdict} by {person.name}{for_vo} (in {groups}).", f"Decides: {explanation.deciding.name}.", ""]
    for rule in explanation.rules:
        detail = f": {rule.sentence}" if rule.outcome is not Outcome.NOT_REACHED else ""
        lines.append(f"  {rule.outcome:<12} {rule.name}{detail}")
    return "\n".join(lines)


__all__ = [
    "POLICY_HELP",
    "PolicyOptions",
    "UnusablePolicies",
    "link_text",
    "parse_policy_options",
    "run_policy",
    "told",
]
