"""The wire between spawner and service, and the API's answers, as pydantic models.

Of the service, the spawner imports this module with those of contents and links, what links mean, and `replay_build_service.client`.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from replay_build_service.content_schemas import ContentModel
from replay_build_service.domain import NO_NAMED_SERVERS, ImageConfiguration, Launch
from replay_build_service.installed import learn_installed_providers as learn_installed_providers
from replay_build_service.links import MAX_SPEC_LENGTH, MAX_URLPATH_LENGTH
from replay_build_service.policy_values import Placement, Resources

MOST_GROUPS = 1000
"""Of one person at the hub."""
MOST_FEATURES = 20

_A_YEAR = 366 * 86_400.0

MOST_REASON = 1000
"""Characters of why a session ended."""


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
_Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
"""A commit's full SHA, or a record's version; which of them it has to be depends on the link."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GPUsModel(_Frozen):
    """Graphics processors, as Kubernetes names and counts them."""

    resource: str
    count: int


class ResourcesModel(_Frozen):
    """Memory in bytes, CPU in cores; none is no limit and no guarantee."""

    memory_guarantee: int | None = None
    memory_limit: int | None = None
    cpu_guarantee: float | None = None
    cpu_limit: float | None = None
    gpus: GPUsModel | None = None

    @classmethod
    def of(cls, resources: Resources) -> "ResourcesModel":
        gpus = resources.gpus
        return cls(
            memory_guarantee=resources.memory_guarantee,
            memory_limit=resources.memory_limit,
            cpu_guarantee=resources.cpu_guarantee,
            cpu_limit=resources.cpu_limit,
            gpus=None if gpus is None else GPUsModel(resource=gpus.resource, count=gpus.count),
        )


class TolerationModel(_Frozen):
    """A taint that the session's pod tolerates, in the words of a pod's specification."""

    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None
    tolerationSeconds: int | None = None


class PlacementModel(_Frozen):
    """On which nodes of a cluster the session may run."""

    node_selector: dict[str, str] = {}
    tolerations: list[TolerationModel] = []

    @classmethod
    def of(cls, placement: Placement) -> "PlacementModel":
        return cls(
            node_selector=dict(placement.node_selector),
            tolerations=[
                TolerationModel(
                    key=one.key,
                    operator=one.operator,
                    value=one.value,
                    effect=one.effect,
                    tolerationSeconds=one.seconds,
                )
                for one in placement.tolerations
            ],
        )


class ImageModel(_Frozen):
    """What a container image says of how it wants to be run."""

    user: str
    """Name or number, with or without a group; empty means root."""
    working_dir: str
    home: str | None
    """Its ``HOME``, where it sets one."""
    entrypoint: list[str]
    command: list[str]
    top_level: list[str] | None = None
    """What its repository has at the top level, by names; none where that is not known."""

    @classmethod
    def of(cls, configuration: ImageConfiguration) -> "ImageModel":
        return cls(
            user=configuration.user,
            working_dir=configuration.working_dir,
            home=configuration.home,
            entrypoint=list(configuration.entrypoint),
            command=list(configuration.command),
            top_level=None if configuration.top_level is None else list(configuration.top_level),
        )


class LaunchPlan(_Frozen):
    """All that the spawner needs to start a server of a launch."""

    launch: str
    vo: str
    repository: str
    """The canonical address of the repository."""
    version: str
    """The commit, or the version of a record."""
    link: str
    """Path of the link that made it: ``/v2/…``."""
    urlpath: str = ""
    """What of the session the link opens."""
    build: str | None = None
    """The build that the launch waited for; none where the image was there."""
    created_at: AwareDatetime | None = None
    """When the person agreed to it."""
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
    content: ContentModel | None = None
    resources: ResourcesModel
    placement: PlacementModel = PlacementModel()
    features: list[str] = []
    """Names of what the session gets beside its image."""
    maximum_age: float | None = None
    """Seconds after which the service stops the session; none for as long as it is used."""


class FeatureReport(_Frozen):
    """What there is to say of one feature of a session that runs."""

    name: str
    title: str
    state: Literal["given", "delayed", "absent"]
    """``delayed`` is tried again; ``absent`` is not, in this session."""
    sentence: str = ""
    next_try: AwareDatetime | None = None


class UsageModel(_Frozen):
    """What a session uses now. Memory in bytes, CPU in cores; none is not known, and of limits that there is none."""

    source: Literal["process", "engine", "metrics"]
    """``process``: the memory limit is of each process of the session, not of all together."""
    memory_used: int
    memory_limit: int | None = None
    cpu_used: float | None = None
    cpu_limit: float | None = None
    oom_kills: int | None = None
    """How many processes of it were ended because its memory had run out, where the source counts them."""


class SessionReport(_Frozen):
    """``GET {hub}/api/replay/sessions/USER``: what there is to say of a session that runs."""

    launch: str
    resources: ResourcesModel | None = None
    """What its plan gave it."""
    usage: UsageModel | None = None
    """None where nothing tells."""
    features: list[FeatureReport] = []


class ActivityReport(_Frozen):
    """What the culler's arbiter found of a launch's session whose end is near, or was. In seconds, so that no clocks are compared."""

    launch: _LaunchText
    active_ago: float = Field(ge=0, le=_A_YEAR)
    """Since it was last used."""
    limit: float = Field(gt=0, le=_A_YEAR)
    """So long after that it ends."""
    warning: float = Field(ge=0, le=_A_YEAR)
    """So long before its end its person is told."""


class ActivityAnswer(_Frozen):
    """What the service knows of it."""

    kept_ago: float | None = Field(default=None, ge=0)
    """Seconds since its person asked to keep it; none where they did not."""


class SessionEndModel(_Frozen):
    """``GET api/session``: how the session of whoever asks stands, for a page that stays open."""

    launch: str | None = None
    """Of the session that runs; none where none does."""
    ends_at: AwareDatetime | None = None
    """When it ends if nobody uses it; told only while that is near."""
    sentence: str = ""
    """The same in words."""


class EndedReport(_Frozen):
    """``POST internal/ended``: the spawner tells why a session ended that nobody stopped."""

    launch: _LaunchText
    reason: Annotated[str, StringConstraints(min_length=1, max_length=MOST_REASON)]
    """A sentence for the person."""


class ReadingRequest(_Frozen):
    """``POST {hub}/api/replay/sessions/USER/reading``, with a token of that person's: a way in to read their session."""

    launch: _LaunchText


class ReadingModel(_Frozen):
    """A way in to a session for a while, which opens nothing else."""

    url: str
    """Where the session answers, as the hub reaches it, with a slash at the end."""
    token: str = Field(repr=False)
    seconds: float
    """How long it lasts."""


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
    terms: "TermsModel | None" = None
    """Terms of use that have to be agreed to first: send their version as “terms”."""


class TermsModel(_Frozen):
    """Terms of use of a VO."""

    vo: str
    version: str
    text: str


class LaunchRequest(_Frozen):
    """``POST …/api/launches``."""

    repo: _Repo
    vo: _Name | None = None
    urlpath: _UrlPath = ""
    version: _Version | None = None
    server_name: Annotated[str, AfterValidator(_unnamed)] = ""
    """Empty: a person's own server, the only one that Replay starts."""
    features: Annotated[tuple[_Name, ...], Field(max_length=MOST_FEATURES)] = ()
    """Names of what the session is to get beside its image."""
    terms: _Name | None = None
    """The version of the VO's terms of use that the person agrees to with this."""
    content: _Repo | None = None
    content_version: _Version | None = None
    """A second repository or record, whose files the session gets in a folder of their own, and its version as above."""


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
    content: str | None
    content_version: str | None
    """The second repository or record, as after “content=” in a link, and its version."""
    created_at: str
    failure: str | None
    features: list[str]
    ends_by: str | None
    """When its session is stopped at the latest, where its VO's policy has a maximum age and it runs."""
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
            content=launch.content and launch.content.spec.text,
            content_version=launch.content and launch.content.version,
            created_at=launch.created_at.isoformat(),
            failure=launch.failure,
            features=list(launch.features),
            ends_by=launch.ends_by.isoformat() if launch.ends_by else None,
            url=f"{base_url}launches/{launch.id}",
            events_url=f"{base_url}api/launches/{launch.id}/events",
        )
