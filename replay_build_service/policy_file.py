"""From a file of policies to policies, or to a sentence with the line of each fault.

The hub's configuration reads it too, for who may enter and who manages (`PolicyFile.permitted_vos`, `PolicyFile.vo_managers`,
`PolicyFile.load_roles`), so what only the service has may not come in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from replay_build_service.errors import BadLink
from replay_build_service.policy_document import Document, NoDocument, read_document
from replay_build_service.policy_document import Path as Place
from replay_build_service.policy_schema import (
    CommunityPart,
    CPUPart,
    GPUsPart,
    MemoryPart,
    PoliciesPart,
    PolicyPart,
    RepositoriesPart,
    TermsPart,
    TolerationPart,
)
from replay_build_service.policy_values import (
    Community,
    FeatureState,
    GPUs,
    Limits,
    Placement,
    RepositoryPattern,
    Resources,
    Toleration,
    VOPolicy,
)
from replay_build_service.rulings import Terms

MOST_VO_CHARACTERS = 191
"""As many as leave room for ``:managers`` in the name of a hub group."""


class UnusablePolicies(Exception):
    """The file cannot be used. The message has a line for each fault: the file, the line and a sentence."""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """What a file says."""

    policies: tuple[VOPolicy, ...]

    @property
    def permitted_vos(self) -> dict[str, str]:
        """For `EGICheckinAuthenticator.permitted_vos`: each VO with where one enrols, which may be empty."""
        return {policy.vo: policy.enrolment_url or "" for policy in self.policies}

    @property
    def vo_managers(self) -> dict[str, list[str]]:
        """For `EGICheckinAuthenticator.vo_managers`: the VOs that have managers, and what makes somebody one."""
        return {policy.vo: list(policy.managers) for policy in self.policies if policy.managers}

    def load_roles(self, service: str = "replay") -> list[dict[str, Any]]:
        """For `JupyterHub.load_roles`: managers reach the service, and get nothing else of the hub's.

        What they may do is decided by the service, for each launch: the hub's own filters go by who is in a group, and would
        let them stop what a member runs for another VO.
        """
        groups = [f"{vo}:managers" for vo in self.vo_managers]
        scopes = [f"access:services!service={service}"]
        return [{"name": "replay-vo-managers", "scopes": scopes, "groups": groups}] if groups else []


def read_policies(file: str | Path) -> PolicyFile:
    """Read a file of policies. Raises `UnusablePolicies`, which tells every fault with its line."""
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnusablePolicies(f"The policies cannot be read from {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UnusablePolicies(f"{path}: the file is no text in UTF-8.") from error
    return parse_policies(text, str(path))


def parse_policies(text: str, name: str = "policies") -> PolicyFile:
    """As `read_policies`, for a text; ``name`` is what faults call it."""
    try:
        document = read_document(text, ("defaults", "vos"))
    except NoDocument as error:
        raise UnusablePolicies(f"{name}, line {error.line}: {error}") from error
    if not isinstance(document.value, dict):
        raise UnusablePolicies(f"{name}, line 1: A file of policies has “vos:”, and below it each VO by its name.")
    try:
        found = PoliciesPart.model_validate(document.value)
    except ValidationError as error:
        faults = [_told(one) for one in error.errors()]
        raise _unusable(name, document, faults) from error
    faults = list(_contradictions(found, document))
    if faults:
        raise _unusable(name, document, faults)
    return PolicyFile(tuple(_policy_of(vo, part) for vo, part in found.vos.items()))


_Fault = tuple[Place, str]


def _unusable(name: str, document: Document, faults: list[_Fault]) -> UnusablePolicies:
    lines = sorted({(document.line_of(place), sentence) for place, sentence in faults})
    return UnusablePolicies("\n".join(f"{name}, line {line}: {sentence}" for line, sentence in lines))


def _told(error: Any) -> _Fault:
    """What pydantic found, as a sentence."""
    place: Place = tuple(part for part in error["loc"] if part != "[key]")
    name = next((part for part in reversed(place) if isinstance(part, str)), "the file")
    context: Mapping[str, Any] = error.get("ctx") or {}
    match error["type"]:
        case "extra_forbidden":
            return place, f"There is no key “{name}” here. These there are: {', '.join(_known_at(place))}."
        case "missing":
            return place[:-1], f"“{name}” is missing."
        case "enum" if "features" in place:
            states = ", ".join(FeatureState)
            return place, f"“{error['input']}” is no state of the feature “{name}”. The states are: {states}."
        case "greater_than_equal":
            return place, f"“{name}” is {error['input']}, and must be at least {context['ge']:g}."
        case "int_type" | "int_from_float" | "float_type" | "int_parsing" | "float_parsing":
            return place, f"“{name}” must be a number, and is {_shown(error['input'])}."
        case "feature":
            return place, f"{error['msg']}."
        case "too_short" if name == "allowed":
            return place, "“allowed” is empty, so nothing could run. Leave it out to allow all that is not denied."
        case "too_short":
            return place, f"“{name}” is empty."
        case _:
            said = str(error["msg"]).removeprefix("Input ").rstrip(".")
            return place, f"“{name}”: {said[:1].lower() if said.startswith('S') else said[:1]}{said[1:]}."


def _known_at(place: Place) -> list[str]:
    """The keys that there are where an unknown one stands."""
    if len(place) == 1:
        return list(PoliciesPart.model_fields)
    within = [part for part in place[:-1] if isinstance(part, str)]
    # Below “vos” and the VO's own name, or below “defaults”, a part's name says what it is.
    parts = within[2:] if within[0] == "vos" else within[1:]
    return list((_PARTS[parts[-1]] if parts else PolicyPart).model_fields)


_PARTS: Mapping[str, type[BaseModel]] = {
    "memory": MemoryPart,
    "cpu": CPUPart,
    "gpus": GPUsPart,
    "tolerations": TolerationPart,
    "repositories": RepositoriesPart,
    "terms": TermsPart,
    "community": CommunityPart,
}


def _shown(value: object) -> str:
    text = "nothing" if value is None else f"“{value}”"
    return text if len(text) <= 80 else f"{text[:79]}…”"


# contradictions


def _contradictions(found: PoliciesPart, document: Document) -> Iterator[_Fault]:
    for vo, part in found.vos.items():
        place: Place = ("vos", vo)
        if (fault := _bad_name(vo)) is not None:
            yield place, fault
        yield from _in_resources(place, part)
        yield from _in_limits(place, part)
        yield from _in_repositories(place, part, document)
        if f"{vo}:managers" in found.vos and part.managers:
            yield ("vos", f"{vo}:managers"), f"A VO cannot be called as the group of the managers of {vo}."


def _bad_name(vo: str) -> str | None:
    if not vo.strip() or vo != vo.strip() or not vo.isprintable():
        return "The name of a VO has neither spaces at its ends nor characters that cannot be seen."
    if len(vo) > MOST_VO_CHARACTERS:
        return f"The name of a VO has at most {MOST_VO_CHARACTERS} characters, and this has {len(vo)}."
    if re.search(r"[<>\"'`&\\]", vo) or ".." in vo or vo.startswith(("/", ".")):
        return f"“{vo[:80]}” cannot be the name of a VO: it reads like a path or like HTML."
    return None


def _in_resources(place: Place, part: PolicyPart) -> Iterator[_Fault]:
    for name, guarantee, limit in (
        ("memory", part.memory.guarantee, part.memory.limit),
        ("cpu", part.cpu.guarantee, part.cpu.limit),
    ):
        if guarantee is not None and limit is not None and guarantee > limit:
            yield (
                (*place, name, "guarantee"),
                f"“{name}” guarantees more ({_amount(name, guarantee)}) than its limit ({_amount(name, limit)}).",
            )
        if limit == 0:
            yield (*place, name, "limit"), f"“{name}” has the limit 0, with which nothing runs."
    for number, toleration in enumerate(part.tolerations):
        if toleration.operator == "Exists" and toleration.value is not None:
            yield (*place, "tolerations", number), "A toleration with the operator Exists has no value."
        if toleration.key is None and toleration.operator != "Exists":
            yield (*place, "tolerations", number), "A toleration without a key needs the operator Exists."


def _amount(name: str, value: float) -> str:
    return f"{value / 1024**3:g}G" if name == "memory" else f"{value:g}"


def _in_limits(place: Place, part: PolicyPart) -> Iterator[_Fault]:
    if part.servers is not None and part.servers_per_person is not None and part.servers_per_person > part.servers:
        yield (
            (*place, "servers_per_person"),
            f"“servers_per_person” is {part.servers_per_person}, and all members together may have {part.servers} (“servers”).",
        )
    for text, number in part.servers_of_repositories.items():
        here = (*place, "servers_of_repositories", text)
        try:
            RepositoryPattern.parse(text)
        except BadLink as error:
            yield here, error.sentence
        if part.servers is not None and number > part.servers:
            yield here, f"“{text}” may have {number} servers, and all members together {part.servers} (“servers”)."


def _in_repositories(place: Place, part: PolicyPart, document: Document) -> Iterator[_Fault]:
    denied = part.repositories.denied
    by_text = {pattern.text.lower(): number for number, pattern in reversed(list(enumerate(denied)))}
    # How each begins is compared first: there may be thousands.
    wider = [
        (number, pattern, pattern.text.lower().partition("*")[0])
        for number, pattern in enumerate(denied)
        if not pattern.is_exact
    ]
    for number, pattern in enumerate(part.repositories.allowed or ()):
        other = by_text.get(pattern.text.lower())
        if other is None and pattern.is_exact:
            repository, short = pattern.as_repository(), pattern.text.lower()
            found = (at for at, one, start in wider if short.startswith(start) and one.matches_any_case(repository))
            other = next(found, None)
        if other is not None:
            line = document.line_of((*place, "repositories", "denied", other))
            yield (
                (*place, "repositories", "allowed", number),
                f"“{pattern.text}” is allowed here and denied in line {line} (“{denied[other].text}”). Leave one of them out.",
            )


# to the core's values


def _policy_of(vo: str, part: PolicyPart) -> VOPolicy:
    return VOPolicy(
        vo=vo,
        resources=Resources(
            part.memory.guarantee,
            part.memory.limit,
            part.cpu.guarantee,
            part.cpu.limit,
            GPUs(part.gpus.resource, part.gpus.count) if part.gpus else None,
        ),
        enrolment_url=part.enrolment_url or None,
        placement=Placement(
            tuple(sorted(part.node_selector.items())),
            tuple(
                Toleration(one.key, one.operator, one.value, one.effect, one.tolerationSeconds)
                for one in part.tolerations
            ),
        ),
        limits=Limits(
            part.servers_per_person,
            part.servers,
            part.builds_per_person,
            part.servers_per_repository,
            tuple((RepositoryPattern.parse(text), number) for text, number in part.servers_of_repositories.items()),
        ),
        features={str(name): state for name, state in part.features.items()},
        allowed=tuple(part.repositories.allowed or ()),
        denied=tuple(part.repositories.denied),
        maximum_age=part.maximum_age,
        managers=tuple(part.managers),
        banner=part.banner,
        terms=Terms(part.terms.version, part.terms.text) if part.terms else None,
        community=Community(part.community.name, part.community.logo) if part.community else None,
    )
