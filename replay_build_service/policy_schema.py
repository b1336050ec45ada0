"""The schema of the file of policies: what may stand in it, value by value. What values mean together is the business of `policy_file`."""

from __future__ import annotations

import re
import unicodedata
from datetime import timedelta
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from replay_build_service.errors import BadLink
from replay_build_service.policy_values import (
    SERVERS_PER_REPOSITORY,
    FeatureState,
    RepositoryPattern,
)

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_USUAL_GPU = "nvidia.com/gpu"


def _bytes(value: Any) -> Any:
    """As JupyterHub reads sizes: a number, or one with K, M, G or T of 1024."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise PydanticCustomError("size", "a size reads like 2G or 512M")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", str(value).strip())
    if found is None:
        raise PydanticCustomError("size", "a size reads like 2G or 512M")
    return int(float(found[1]) * _UNITS[found[2]])


def _span(value: Any) -> Any:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", str(value).strip())
    if found is None or not float(found[1]):
        raise PydanticCustomError("span", "a time reads like 8h, 90m or 2d")
    return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])


def _pattern(value: Any) -> Any:
    if not isinstance(value, str):
        raise PydanticCustomError("pattern", "a pattern of repositories reads like github.com/owner/*")
    try:
        return RepositoryPattern.parse(value)
    except BadLink as error:
        raise PydanticCustomError("pattern", "{sentence}", {"sentence": error.sentence}) from error


def _web_address(value: Any) -> Any:
    if not isinstance(value, str) or (
        value and (urlsplit(value).scheme not in {"https", "http"} or not urlsplit(value).hostname)
    ):
        raise PydanticCustomError("address", "an address reads like https://example.org/enrol")
    return value


def installed_features() -> list[str]:
    """Names of what sessions can get beside their image, by the packages that are installed here."""
    return sorted({one.name for one in entry_points(group="replay.features")})


def _feature(value: Any) -> Any:
    if value not in (known := installed_features()):
        told = {"name": str(value)[:80], "known": ", ".join(known) or "none"}
        raise PydanticCustomError("feature", "There is no feature “{name}”. These there are: {known}", told)
    return value


def _logo(value: Any) -> Any:
    is_path = isinstance(value, str) and re.fullmatch(r"/(?!/)[\w./-]+", value) is not None and ".." not in value
    parts = urlsplit(value) if isinstance(value, str) else None
    is_address = parts is not None and parts.scheme == "https" and re.fullmatch(r"[\w.-]+(:\d+)?", parts.netloc)
    if not (is_path or is_address) or any(character in value for character in " ;,'\"<>"):
        raise PydanticCustomError(
            "logo", "a logo is an https:// address, or a path on the hub's own host, such as /hub/static/logo.svg"
        )
    return value


def _manager(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or value.strip() == "user:":
        raise PydanticCustomError(
            "manager", "a manager is a requirement, such as vo.example.org:role=manager, or user:NAME"
        )
    return value.strip()


def _said(value: Any) -> Any:
    """Text for people: no controls, nothing that cannot be seen or turns text around."""
    if not isinstance(value, str):
        raise PydanticCustomError("text", "this should be text")
    if any(unicodedata.category(one) in {"Cc", "Cf", "Cs"} for one in value if one not in "\n\t"):
        raise PydanticCustomError("text", "this holds characters that cannot be seen")
    return value.strip()


_SIZE_SCHEMA = {"type": ["string", "integer"], "pattern": r"^\d+(\.\d+)?[KMGT]?$", "minimum": 0}
_Size = Annotated[int, BeforeValidator(_bytes), WithJsonSchema(_SIZE_SCHEMA)]
_Span = Annotated[
    timedelta, BeforeValidator(_span), WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*[smhd]$"})
]
_Pattern = Annotated[RepositoryPattern, BeforeValidator(_pattern), WithJsonSchema({"type": "string", "minLength": 1})]
_Address = Annotated[str, BeforeValidator(_web_address), WithJsonSchema({"type": "string"})]
_Logo = Annotated[str, BeforeValidator(_logo), WithJsonSchema({"type": "string", "pattern": "^(https://|/)"})]
_FeatureName = Annotated[
    str, BeforeValidator(_feature), WithJsonSchema({"type": "string", "pattern": "^[a-z0-9][a-z0-9-]*$"})
]
_Manager = Annotated[str, BeforeValidator(_manager), WithJsonSchema({"type": "string", "minLength": 1})]
_Text = Annotated[str, BeforeValidator(_said), WithJsonSchema({"type": "string"})]
_Number = Annotated[int, Field(strict=True, ge=1)]
_Cores = Annotated[float, Field(strict=True, ge=0)]
_KubernetesWord = Annotated[
    str, Field(strict=True, max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$")
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class MemoryPart(_Part):
    """Memory of a session."""

    guarantee: _Size | None = Field(default=None, description="Reserved for it, such as 2G.")
    limit: _Size | None = Field(default=None, description="What it may use at most, such as 4G.")


class CPUPart(_Part):
    """Processors of a session."""

    guarantee: _Cores | None = Field(default=None, description="Cores that are reserved for it.")
    limit: _Cores | None = Field(default=None, description="Cores that it may use at most.")


class GPUsPart(_Part):
    """Graphics processors of a session."""

    resource: _KubernetesWord = Field(default=_USUAL_GPU, description="What Kubernetes calls them.")
    count: _Number = Field(description="How many of them.")


class TolerationPart(_Part):
    """A taint that sessions tolerate, as in a pod's specification."""

    key: _KubernetesWord | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = Field(default=None, max_length=63)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: Annotated[int, Field(strict=True, ge=0)] | None = None


class RepositoriesPart(_Part):
    """Which repositories may run, by patterns: github.com/owner/name, github.com/owner/*, git.example.org/**."""

    allowed: list[_Pattern] | None = Field(default=None, min_length=1, description="Only these; without it, all.")
    denied: list[_Pattern] = Field(default=[], description="Not these, whatever is allowed.")


class TermsPart(_Part):
    """Terms of use, to which each person agrees once per version."""

    version: Annotated[_Text, Field(min_length=1, max_length=64)]
    text: Annotated[_Text, Field(min_length=1, max_length=20_000)]


class CommunityPart(_Part):
    """How a community's own instance is called and marked."""

    name: Annotated[_Text, Field(min_length=1, max_length=80)]
    logo: _Logo | None = Field(default=None, description="https://…, or a path on the hub's own host.")


class PolicyPart(_Part):
    """What the members of a VO may run, with how much."""

    enrolment_url: _Address = Field(default="", description="Where one becomes a member.")
    memory: MemoryPart = MemoryPart()
    cpu: CPUPart = CPUPart()
    gpus: GPUsPart | None = None
    node_selector: dict[_KubernetesWord, Annotated[str, Field(strict=True, max_length=63)]] = Field(
        default={}, description="Labels of the nodes that sessions run on."
    )
    tolerations: list[TolerationPart] = []
    servers_per_person: _Number | None = Field(
        default=None, description="Servers that a member may have at once. Without effect today: each person has one."
    )
    servers: _Number | None = Field(default=None, description="Servers that all members together may have at once.")
    builds_per_person: _Number | None = Field(
        default=None, description="Builds that a member may have under way at once."
    )
    servers_per_repository: _Number = Field(
        default=SERVERS_PER_REPOSITORY, description="Servers that one repository may have at once, whoever runs them."
    )
    servers_of_repositories: dict[str, _Number] = Field(
        default={},
        description="Numbers of their own for some repositories: pattern → number. The first that matches counts.",
    )
    maximum_age: _Span | None = Field(default=None, description="How long a session may run, such as 8h.")
    features: dict[_FeatureName, FeatureState] = Field(
        default_factory=dict[str, FeatureState],
        description="What sessions get beside their image. What is not named is offered.",
    )
    repositories: RepositoriesPart = RepositoriesPart()
    managers: list[_Manager] = Field(default=[], description="Who manages the VO: requirements, or user:NAME.")
    banner: Annotated[_Text, Field(max_length=1000)] = Field(default="", description="Shown to members on every page.")
    terms: TermsPart | None = None
    community: CommunityPart | None = None


class PoliciesPart(_Part):
    """Policies of virtual organisations (VOs): who is in none of them launches nothing."""

    defaults: PolicyPart = Field(
        default=PolicyPart(),
        description="What holds for each VO that does not say otherwise; a key of a VO replaces it whole.",
    )
    vos: dict[str, PolicyPart] = Field(description="A policy for each VO, by its name.", min_length=1)


def json_schema() -> dict[str, Any]:
    """The schema of the file, for editors and for the chart."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **PoliciesPart.model_json_schema()}
