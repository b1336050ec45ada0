"""The wire between spawner and service, and the API's answers, as pydantic models.

The spawner imports this module and `replay_build_service.client`, and nothing else of the service.
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from replay_build_service.domain import NO_NAMED_SERVERS, ImageConfiguration, Launch
from replay_build_service.errors import BadLink
from replay_build_service.links import MAX_SPEC_LENGTH, MAX_URLPATH_LENGTH, RepoSpec

MOST_GROUPS = 1000
"""Of one person at the hub."""


def _no_longer_than(most: int) -> AfterValidator:
    def checked(text: str) -> str:
        if len(text) > most:
            raise PydanticCustomError(
                "too_long",
                "This is too long: {length} characters, and at most {most} are read",
                {"length": len(text), "most": most},
            )
        return text

    return AfterValidator(checked)


def _unnamed(server_name: str) -> str:
    if server_name:
        raise PydanticCustomError("named_server", "{sentence}", {"sentence": NO_NAMED_SERVERS.removesuffix(".")})
    return server_name


_Repo = Annotated[str, _no_longer_than(MAX_SPEC_LENGTH)]
_UrlPath = Annotated[str, _no_longer_than(MAX_URLPATH_LENGTH)]
_Name = Annotated[str, _no_longer_than(255)]
"""Of a person, a group, a server or a virtual organisation, as long as JupyterHub keeps one."""
_LaunchText = Annotated[str, _no_longer_than(64)]
_Commit = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ResourcesModel(_Frozen):
    """Memory in bytes, CPU in cores; none is no limit and no guarantee."""

    memory_guarantee: int | None = None
    memory_limit: int | None = None
    cpu_guarantee: float | None = None
    cpu_limit: float | None = None


class ImageModel(_Frozen):
    """What a container image says of how it wants to be run."""

    user: str
    """Name or number, with or without a group; empty means root."""
    working_dir: str
    home: str | None
    """Its ``HOME``, where it sets one."""
    entrypoint: list[str]
    command: list[str]

    @classmethod
    def of(cls, configuration: ImageConfiguration) -> "ImageModel":
        return cls(
            user=configuration.user,
            working_dir=configuration.working_dir,
            home=configuration.home,
            entrypoint=list(configuration.entrypoint),
            command=list(configuration.command),
        )


class LaunchPlan(_Frozen):
    """All that the spawner needs to start a server of a launch."""

    launch: str
    vo: str
    repository: str
    """The canonical address of the repository."""
    version: str
    """The commit."""
    link: str
    """Path of the link that made it: ``/v2/…``."""
    image: str
    """What runs, by digest."""
    location: str
    """Where the image lies: a folder, ``registry/repository@sha256:…``, or an engine's image id, ``sha256:…``."""
    container: ImageModel | None = None
    """What a container image says of itself; none where it is a folder."""
    command: list[str]
    environment: dict[str, str]
    """May hold the placeholder ``{home}``: the session's own folder."""
    source: str | None
    """A folder whose content becomes the session's own folder."""
    resources: ResourcesModel


class PlanRequest(_Frozen):
    """The spawner's question: what a launch is to run. Using a plan uses the launch up."""

    user: _Name
    server_name: _Name
    launch: _LaunchText | None = None
    repo: _Repo | None = None
    vo: _Name | None = None
    urlpath: _UrlPath = ""
    groups: Annotated[list[_Name], Field(max_length=MOST_GROUPS)] = []
    """The hub's groups of that person; asked for where a repository is named without a launch."""


class Refusal(_Frozen):
    """Why there is no plan, or what went wrong: one sentence, and the number that finds the log line."""

    error: str
    message: str
    id: str | None = None
    nearest: list[str] = []


class LaunchRequest(_Frozen):
    """``POST …/api/launches``."""

    repo: _Repo
    vo: _Name | None = None
    urlpath: _UrlPath = ""
    version: _Commit | None = None
    server_name: Annotated[str, AfterValidator(_unnamed)] = ""
    """Empty: a person's own server, the only one that Replay starts."""


class LaunchModel(_Frozen):
    """A launch as the API tells it."""

    id: str
    state: str
    repository: str
    ref: str
    version: str
    image_name: str
    image: str | None
    build: str | None
    vo: str
    urlpath: str
    created_at: str
    failure: str | None
    url: str
    """The launch's page."""
    events_url: str

    @classmethod
    def of(cls, launch: Launch, base_url: str) -> "LaunchModel":
        return cls(
            id=launch.id,
            state=launch.state,
            repository=launch.resolved.repository.url,
            ref=launch.resolved.spec.ref,
            version=launch.resolved.version,
            image_name=str(launch.image_name),
            image=launch.image.reference if launch.image else None,
            build=launch.build_id,
            vo=launch.vo,
            urlpath=launch.urlpath,
            created_at=launch.created_at.isoformat(),
            failure=launch.failure,
            url=f"{base_url}launches/{launch.id}",
            events_url=f"{base_url}api/launches/{launch.id}/events",
        )


class LinkPreview(_Frozen):
    """What a link means, from its text alone: no request is made for it."""

    repository: str
    """The address that the link names."""
    ref: str
    spec: str
    """The canonical spelling after ``/v2/``."""
    problem: str | None = None
    """Why it cannot be understood; then the other fields are empty."""

    @classmethod
    def of(cls, text: str) -> "LinkPreview":
        """``text`` is what follows ``/v2/``, percent-encoded as it came."""
        try:
            spec = RepoSpec.parse(text)
        except BadLink as error:
            return cls(repository="", ref="", spec="", problem=error.sentence)
        return cls(repository=spec.url, ref=spec.ref, spec=spec.text)
