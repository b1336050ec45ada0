"""Every page in each of its states: rendered strictly, from real values, and read as a browser would."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import replay_build_service
from replay_build_service.domain import (
    BuildId,
    BuildRecipe,
    ImageName,
    Launch,
    LaunchId,
    LaunchState,
    Person,
    ResolvedRef,
    RunnableImage,
    Server,
    ServerStatus,
)
from replay_build_service.errors import RepositoryNotFound, SourceFault
from replay_build_service.link_schemas import LinkPreview
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.pasting import Pasted
from replay_build_service.permissions import Notice
from replay_build_service.policy_values import Community, Feature, GPUs, Offer, Resources, VOPolicy
from replay_build_service.records import SessionEnd
from replay_build_service.rulings import Terms
from replay_build_service.schemas import (
    FeatureReport,
    GPUsModel,
    Refusal,
    ResourcesModel,
    SessionReport,
    UsageModel,
)
from replay_build_service.web import make_templates
from replay_build_service.web.pages import consent_context, home_context, launch_context, pasted_context
from replay_build_service.web.session_pages import session_now
from replay_build_service.wishes import Consent, Unanswered

SERVICE = Path(replay_build_service.__file__).parent / "web"
SPAWNER = Path(replay_build_service.__file__).parents[1] / "replay_spawner"
CSS = (SERVICE / "static" / "replay.css").read_text()

SERVICE_TEMPLATES = make_templates()
SPAWNER_TEMPLATES = Environment(
    loader=FileSystemLoader(SPAWNER / "templates"), autoescape=True, undefined=StrictUndefined
)

GB = 1024**3
COMMIT = "5c2f1d6b8f0e4a7c9d3b2a1f0e9d8c7b6a5f4e3d"
ATTACK = "<img src=x onerror=alert(1)>\"'"
SERVICE_PATH = "/services/replay/"
ORIGIN = "https://hub.example.org"

EVERY_PAGE = {
    "base_url": SERVICE_PATH,
    "hub_home_url": "/hub/home",
    "person": Person("ada", frozenset({"vo.notebooks.egi.eu"})),
    "xsrf": "2|the|token",
    "origin": ORIGIN,
}

NOTICES = ("Sessions share this machine’s files and network.", "A session’s memory is not limited.")
NOW = datetime(2026, 11, 26, 9, tzinfo=UTC)
TERMS = Terms("2026-11", "Be kind.\n\nCite us.")
TOKEN, DATAHUB = Feature("token", "An access token"), Feature("datahub", "Your spaces in the DataHub")
AGED = VOPolicy(
    "vo.gpu", Resources(2 * GB, 4 * GB, gpus=GPUs("nvidia.com/gpu", 2)), maximum_age=timedelta(hours=8, minutes=30)
)
DEFAULT = VOPolicy("vo.notebooks.egi.eu", Resources(2 * GB, 4 * GB))
LARGER = VOPolicy("vo.access.egi.eu", Resources(4 * GB, 8 * GB, 0.5, 2))
HOSTILE_POLICY = VOPolicy(
    ATTACK, Resources(gpus=GPUs(ATTACK, 1)), community=Community(ATTACK, "https://logos.example.org/a.svg")
)
ABSENT = Server(ServerStatus.ABSENT)
ORDINARY = Server(ServerStatus.READY, "/user/ada/")


def resolved(text: str = "gh/ada/rainfall/main", version: str = COMMIT) -> ResolvedRef:
    spec = RepoSpec.parse(text)
    return ResolvedRef(Repository.of_url(spec.url), spec, spec.url, version)


HELLO = resolved()
OTHER = resolved("git/https%3A%2F%2Fexample.org%2Fclimate%2Fice.git/feature/cores")
RECORD = ResolvedRef(
    Repository.of_url("https://doi.org/10.5281/zenodo.100"),
    RepoSpec.parse("zenodo/10.5281/zenodo.101"),
    "zenodo+https://zenodo.org/api/records/101",
    "101-0123456789ab",
    page="https://zenodo.org/records/101",
    title="Rain of a year",
    license="cc-by-4.0",
)
HOSTILE = ResolvedRef(
    Repository(f"javascript://{ATTACK}"),
    RepoSpec("git", ATTACK, ATTACK),
    ATTACK,
    ATTACK,
    f"javascript:{ATTACK}",
    ATTACK,
    ATTACK,
)


def launch(state: LaunchState = LaunchState.RUNNING, of: ResolvedRef = HELLO, **changes: Any) -> Launch:
    made = Launch(
        id=LaunchId("1f" * 16),
        user="ada",
        server_name="",
        resolved=of,
        image_name=ImageName.of(of, BuildRecipe("venv")),
        vo="vo.notebooks.egi.eu",
        urlpath="lab/tree/index.ipynb",
        state=state,
        created_at=datetime(2026, 3, 4, 9, 5, tzinfo=UTC),
        build_id=BuildId("b1"),
        image=RunnableImage("venv@sha256:00", "/images/00"),
    )
    return replace(made, **changes)


def server_of(holder: Launch, status: ServerStatus = ServerStatus.READY) -> Server:
    return Server(status, "/user/ada/", holder.id)


def consent_page(
    of: ResolvedRef = HELLO,
    *,
    holder: Launch | None = None,
    server: Server = ABSENT,
    same_image: bool = False,
    is_built: bool = False,
    usual_seconds: float | None = 130,
    policies: tuple[VOPolicy, ...] = (DEFAULT,),
    offers: tuple[Offer, ...] = (),
    chosen: str = "",
    problem: str = "",
    urlpath: str = "doc/tree/index.ipynb",
    notices: tuple[str, ...] = NOTICES,
    unanswered: Unanswered | None = None,
    content: ResolvedRef | None = None,
) -> dict[str, Any]:
    offers = offers or tuple(Offer(policy) for policy in policies)
    consent = Consent(
        of, offers, is_built, usual_seconds, server, holder, same_image, unanswered=unanswered, content=content
    )
    chosen = chosen or offers[0].policy.vo
    return consent_context(consent, urlpath, ORIGIN, notices, problem=problem, chosen=chosen)


def launch_page(
    shown: Launch,
    *,
    holder: Launch | None = None,
    server: Server = ABSENT,
    usual_seconds: float | None = 45,
    notices: Sequence[Notice] = (),
    report: SessionReport | None = None,
) -> dict[str, Any]:
    session = session_now(holder, server, report, DEFAULT.resources)
    return launch_context(shown, holder, server, usual_seconds, ORIGIN, SERVICE_PATH, notices, session)


def home_page(
    *recent: Launch, holder: Launch | None = None, server: Server = ABSENT, report: SessionReport | None = None
) -> dict[str, Any]:
    session = session_now(holder, server, report, DEFAULT.resources)
    return home_context(holder, server, recent, session=session)


def report_of(holder: Launch, usage: UsageModel | None = None, *features: FeatureReport) -> SessionReport:
    resources = ResourcesModel(
        memory_guarantee=2 * GB, memory_limit=4 * GB, gpus=GPUsModel(resource="nvidia.com/gpu", count=1)
    )
    return SessionReport(launch=holder.id, resources=resources, usage=usage, features=list(features))


def running_home(usage: UsageModel | None, *features: FeatureReport) -> dict[str, Any]:
    report = report_of(launch(), usage, *features)
    return home_page(holder=launch(running_at=NOW), server=server_of(launch()), report=report)


def ending_home() -> dict[str, Any]:
    """Home ten minutes before the end of a session that nobody uses."""
    end = SessionEnd(datetime.now(UTC) - timedelta(minutes=52), timedelta(hours=1), timedelta(minutes=10))
    page = running_home(BY_THE_ENGINE)
    return page | {"session": replace(page["session"], ending=end)}


def error_page(message: str, *nearest: str, enrolments: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    refusal = Refusal(error="not_found", message=message, id="0a1b2c3d", nearest=list(nearest))
    return {
        "refusal": refusal,
        "nearest": [(name, f"/v2/gh/ada/rainfall/{name}") for name in nearest],
        "enrolments": enrolments,
        "elsewhere": None,
    }


RUNNING_OTHER = launch(of=OTHER, id=LaunchId("2e" * 16))
ON_ITS_WAY = launch(LaunchState.BUILDING, OTHER, id=LaunchId("2e" * 16), image=None)
ALL_STATES = tuple(launch(state, failure="It failed.") for state in LaunchState)

BY_THE_ENGINE = UsageModel(
    source="engine", memory_used=GB * 5 // 4, memory_limit=4 * GB, cpu_used=0.42, cpu_limit=2, oom_kills=3
)
BY_THE_METRICS = UsageModel(source="metrics", memory_used=GB // 4, memory_limit=4 * GB, cpu_used=1, cpu_limit=None)
BY_ITS_PROCESSES = UsageModel(source="process", memory_used=6 * GB, memory_limit=4 * GB, cpu_used=0.04)
FEATURES = (
    FeatureReport(name="token", title="An access token", state="given", sentence="It is in a file."),
    FeatureReport(
        name="datahub",
        title="DataHub",
        state="delayed",
        sentence="Onezone does not answer.",
        next_try=datetime(2026, 3, 4, 9, 7, tzinfo=UTC),
    ),
)
DIED = launch(
    LaunchState.ENDED,
    failure="The session ran out of memory, so it was ended: it may use at most 4 GB.",
    running_at=NOW,
    ended_at=NOW + timedelta(hours=1),
)

PAGES: dict[str, tuple[str, dict[str, Any] | Callable[[], dict[str, Any]]]] = {
    "consent, first build": ("consent.html", consent_page(usual_seconds=None)),
    "consent, not built": ("consent.html", consent_page(urlpath="")),
    "consent, built": ("consent.html", consent_page(is_built=True, notices=())),
    "consent, two VOs": ("consent.html", consent_page(policies=(LARGER, DEFAULT))),
    "consent, no limits": ("consent.html", consent_page(policies=(VOPolicy("vo", Resources()),))),
    "consent, exact commit": ("consent.html", consent_page(resolved(f"gh/ada/rainfall/{COMMIT}"))),
    "consent, a record": ("consent.html", consent_page(RECORD, urlpath="lab/tree/rain.ipynb")),
    "consent, content": ("consent.html", consent_page(is_built=True, content=OTHER, urlpath="")),
    "consent, content of a record": ("consent.html", consent_page(content=RECORD)),
    "consent, hostile content": ("consent.html", consent_page(content=HOSTILE)),
    "launch, running, content": (
        "launch.html",
        launch_page(launch(content=OTHER), holder=launch(content=OTHER), server=server_of(launch())),
    ),
    "home, running, content": (
        "home.html",
        home_page(launch(content=OTHER), holder=launch(content=OTHER), server=server_of(launch())),
    ),
    "consent, another runs, with content": (
        "consent.html",
        consent_page(holder=replace(RUNNING_OTHER, content=HELLO), server=server_of(RUNNING_OTHER)),
    ),
    "consent, source gone": (
        "consent.html",
        consent_page(is_built=True, unanswered=Unanswered(RepositoryNotFound("It is gone or private."), NOW)),
    ),
    "consent, source silent, exact commit": (
        "consent.html",
        consent_page(
            resolved(f"gh/ada/rainfall/{COMMIT}"), is_built=True, unanswered=Unanswered(SourceFault(ATTACK), NOW)
        ),
    ),
    "consent, another runs": (
        "consent.html",
        consent_page(holder=RUNNING_OTHER, server=server_of(RUNNING_OTHER), is_built=True),
    ),
    "consent, another on its way": ("consent.html", consent_page(holder=ON_ITS_WAY)),
    "consent, another starts": (
        "consent.html",
        consent_page(holder=ON_ITS_WAY, server=server_of(ON_ITS_WAY, ServerStatus.STARTING)),
    ),
    "consent, ordinary server": ("consent.html", consent_page(server=ORDINARY)),
    "consent, ordinary server starts": (
        "consent.html",
        consent_page(server=Server(ServerStatus.STARTING, "/user/ada/")),
    ),
    "consent, server stops": ("consent.html", consent_page(server=Server(ServerStatus.STOPPING, "/user/ada/"))),
    "consent, runs already": (
        "consent.html",
        consent_page(holder=launch(), server=server_of(launch()), same_image=True, is_built=True),
    ),
    "consent, hostile": (
        "consent.html",
        consent_page(
            HOSTILE,
            holder=launch(of=HOSTILE),
            server=server_of(launch()),
            policies=(VOPolicy(ATTACK, Resources()), DEFAULT),
            urlpath=ATTACK,
            notices=(ATTACK,),
        ),
    ),
    "consent, terms and features": (
        "consent.html",
        consent_page(offers=(Offer(AGED, "Back on Monday.\n\nAll well.", TERMS, ((TOKEN, True), (DATAHUB, False))),)),
    ),
    "consent, two VOs, terms": (
        "consent.html",
        consent_page(
            offers=(Offer(AGED, "Back on Monday.", TERMS, ((TOKEN, True),)), Offer(DEFAULT)),
            chosen=DEFAULT.vo,
            problem="Nothing was started: tick that you agree to the terms of use of vo.gpu first.",
        ),
    ),
    "consent, one VO refuses": (
        "consent.html",
        consent_page(
            offers=(Offer(AGED, refusal="The policy of vo.gpu denies it."), Offer(DEFAULT)), chosen=DEFAULT.vo
        ),
    ),
    "consent, refused": (
        "consent.html",
        consent_page(offers=(Offer(AGED, refusal="The policy of vo.gpu denies it."),)),
    ),
    "consent, hostile policy": (
        "consent.html",
        consent_page(
            offers=(
                Offer(HOSTILE_POLICY, ATTACK, Terms(ATTACK, ATTACK), ((Feature(ATTACK, ATTACK), True),)),
                Offer(DEFAULT, refusal=ATTACK),
            ),
            chosen=ATTACK,
            problem=ATTACK,
        ),
    ),
    "launch, running, with an end": (
        "launch.html",
        launch_page(
            launch(maximum_age=timedelta(hours=8), running_at=NOW),
            holder=launch(),
            server=server_of(launch()),
            notices=(Notice(ATTACK, ATTACK, Community(ATTACK, "/hub/static/logo.svg")),),
        ),
    ),
    "launch, ended, too old": (
        "launch.html",
        launch_page(
            launch(
                LaunchState.ENDED,
                maximum_age=timedelta(hours=8),
                running_at=NOW,
                ended_at=NOW + timedelta(hours=8, seconds=20),
            )
        ),
    ),
    "launch, stopped with a reason": ("launch.html", launch_page(launch(LaunchState.ENDED, failure=ATTACK))),
    "launch, waiting": (
        "launch.html",
        launch_page(launch(LaunchState.BUILDING, build_id=None, image=None), usual_seconds=None),
    ),
    "launch, building": ("launch.html", launch_page(launch(LaunchState.BUILDING, image=None))),
    "launch, starting": ("launch.html", launch_page(launch(LaunchState.STARTING))),
    "launch, starting, built before": ("launch.html", launch_page(launch(LaunchState.STARTING, build_id=None))),
    "launch, running": ("launch.html", launch_page(launch(), holder=launch(), server=server_of(launch()))),
    "launch, choosing": (
        "launch.html",
        launch_page(launch(LaunchState.CHOOSING), holder=RUNNING_OTHER, server=server_of(RUNNING_OTHER)),
    ),
    "launch, choosing, another on its way": (
        "launch.html",
        launch_page(launch(LaunchState.CHOOSING), holder=ON_ITS_WAY),
    ),
    "launch, choosing, another starts": (
        "launch.html",
        launch_page(
            launch(LaunchState.CHOOSING), holder=ON_ITS_WAY, server=server_of(ON_ITS_WAY, ServerStatus.STARTING)
        ),
    ),
    "launch, choosing, ordinary server": ("launch.html", launch_page(launch(LaunchState.CHOOSING), server=ORDINARY)),
    "launch, choosing, the same runs": (
        "launch.html",
        launch_page(launch(LaunchState.CHOOSING, id=LaunchId("3d" * 16)), holder=launch(), server=server_of(launch())),
    ),
    "launch, choosing, free meanwhile": ("launch.html", launch_page(launch(LaunchState.CHOOSING))),
    "launch, failed": (
        "launch.html",
        launch_page(launch(LaunchState.FAILED, image=None, failure="The requirements cannot be resolved.")),
    ),
    "launch, ended": ("launch.html", launch_page(launch(LaunchState.ENDED, build_id=None))),
    "launch, hostile": (
        "launch.html",
        launch_page(launch(LaunchState.FAILED, HOSTILE, failure=ATTACK, urlpath=ATTACK, vo=ATTACK)),
    ),
    "home, empty": ("home.html", home_page()),
    "home, pasted in vain": ("home.html", home_page() | pasted_context("hello", "Replay cannot read this.")),
    "home, pasted something hostile": ("home.html", home_page() | pasted_context(ATTACK, ATTACK)),
    "home, pasted with notes": (
        "home.html",
        home_page() | pasted_context("x", found=Pasted(RepoSpec("gh", "o/r", "HEAD"), "lab", ("One.", "Two."))),
    ),
    "home, pasted with hostile notes": (
        "home.html",
        home_page() | pasted_context("x", found=Pasted(RepoSpec("git", ATTACK, ATTACK), ATTACK, (ATTACK,))),
    ),
    "home, running": ("home.html", home_page(*ALL_STATES, holder=launch(), server=server_of(launch()))),
    "home, running, by the engine": ("home.html", running_home(BY_THE_ENGINE)),
    "home, running, killed once": ("home.html", running_home(BY_THE_ENGINE.model_copy(update={"oom_kills": 1}))),
    "home, running, about to end": ("home.html", ending_home),
    "home, running, by the metrics": ("home.html", running_home(BY_THE_METRICS)),
    "home, running, by its processes": ("home.html", running_home(BY_ITS_PROCESSES)),
    "home, running, nothing tells": ("home.html", running_home(None)),
    "home, running, features": ("home.html", running_home(None, *FEATURES)),
    "home, running, hostile feature": (
        "home.html",
        running_home(None, FeatureReport(name="x", title=ATTACK, state="absent", sentence=ATTACK)),
    ),
    "home, after an end": ("home.html", home_page(DIED, launch(LaunchState.ENDED, OTHER))),
    "home, launched since an end": ("home.html", home_page(launch(LaunchState.ENDED, OTHER), DIED)),
    "home, after a hostile end": (
        "home.html",
        home_page(launch(LaunchState.ENDED, HOSTILE, failure=ATTACK, urlpath=ATTACK)),
    ),
    "launch, running, used": (
        "launch.html",
        launch_page(
            launch(), holder=launch(), server=server_of(launch()), report=report_of(launch(), BY_THE_ENGINE, *FEATURES)
        ),
    ),
    "launch, running, another's report": (
        "launch.html",
        launch_page(
            launch(), holder=launch(), server=server_of(launch()), report=report_of(RUNNING_OTHER, BY_THE_ENGINE)
        ),
    ),
    "launch, died": ("launch.html", launch_page(DIED)),
    "home, on its way": ("home.html", home_page(ON_ITS_WAY, holder=ON_ITS_WAY)),
    "home, ordinary server": ("home.html", home_page(launch(LaunchState.ENDED), server=ORDINARY)),
    "home, starting": ("home.html", home_page(server=Server(ServerStatus.STARTING, "/user/ada/"))),
    "home, stopping": ("home.html", home_page(server=Server(ServerStatus.STOPPING, "/user/ada/"))),
    "home, hostile": (
        "home.html",
        home_page(launch(of=HOSTILE, urlpath=ATTACK), holder=launch(of=HOSTILE, vo=ATTACK), server=server_of(launch())),
    ),
    "error": ("error.html", error_page("There is no such page.")),
    "error, nobody logged in": ("error.html", error_page("There is no such page.") | {"person": None, "xsrf": ""}),
    "error, nearest": ("error.html", error_page("There is no branch “mian”.", "main", "maintenance")),
    "error, archived": (
        "error.html",
        error_page("There is no such commit.")
        | {"elsewhere": (f"swh/swh:1:rev:{COMMIT}", f"/v2/swh/swh:1:rev:{COMMIT}?urlpath=lab")},
    ),
    "error, in no VO": (
        "error.html",
        error_page(
            "You are in no VO that may launch here.", enrolments=[("vo.one", "https://vo.example.org/?a=b&c=d")]
        ),
    ),
    "error, hostile": (
        "error.html",
        error_page(ATTACK, ATTACK, enrolments=[(ATTACK, "https://" + ATTACK)]) | {"person": Person(ATTACK)},
    ),
}

HUB_PAGE = {
    "login_url": "/hub/login?next=%2Fhub%2Fv2%2Fgh%2Fada%2Frainfall%2Fmain",
    "css": CSS,
    "nonce": "abc123",
    "home_url": "/hub/",
    "retry_url": "/hub/v2/gh/ada/rainfall/main",
    "number": "0a1b2c3d",
}
HUB_PAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "link": ("replay_link.html", {"preview": LinkPreview.of("gh/ada/rainfall/main")}),
    "link with content": (
        "replay_link.html",
        {"preview": LinkPreview.of("gh/ada/rainfall/main", "labpath=a.ipynb&content=gh/carla/ice/v1")},
    ),
    "link with a problem": ("replay_link.html", {"preview": LinkPreview.of("svn/ada/rainfall/main")}),
    "hostile link": (
        "replay_link.html",
        {"preview": LinkPreview(repository=ATTACK, ref=ATTACK, spec=ATTACK), "login_url": ATTACK},
    ),
    "hostile problem": ("replay_link.html", {"preview": LinkPreview(repository="", ref="", spec="", problem=ATTACK)}),
    "unavailable": ("replay_unavailable.html", {"retry_url": ATTACK}),
}


@dataclass
class Form:
    method: str
    action: str
    fields: dict[str, str] = field(default_factory=dict[str, str])


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.inline: list[str] = []
        self.forms: list[Form] = []
        self._form: Form | None = None
        self._labels = 0
        self.wrapped: list[dict[str, str]] = []
        """Attributes of the controls that stand within a label."""
        self.text = ""
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        self._open = tag
        if tag == "form":
            self._form = Form(attributes.get("method", "get"), attributes.get("action", ""))
            self.forms.append(self._form)
        elif (
            tag == "input"
            and self._form
            and (attributes["type"] not in {"radio", "checkbox"} or "checked" in attributes)
        ):
            self._form.fields[attributes["name"]] = attributes["value"]
        elif tag == "label":
            self._labels += 1
        if tag in {"input", "textarea", "select"} and self._labels:
            self.wrapped.append(attributes)

    def handle_endtag(self, tag: str) -> None:
        self._open = ""
        if tag == "form":
            self._form = None
        elif tag == "label":
            self._labels -= 1

    def handle_data(self, data: str) -> None:
        if self._open in {"script", "style"}:
            if data.strip():
                self.inline.append(self._open)
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def href_of(self, text: str, html: str) -> str:
        """Where the link with that text leads."""
        before = html.partition(f">{text}</a>")[0]
        assert before != html, f"no link “{text}”"
        return Page(before[before.rindex("<a ") :] + ">").all("a")[0]["href"]


def html_of(name: str) -> str:
    template, known = PAGES[name]
    # What a page says of the moment has to be made in that moment.
    values = known() if callable(known) else known
    return SERVICE_TEMPLATES.get_template(template).render(**(EVERY_PAGE | values))


def hub_html_of(name: str) -> str:
    template, values = HUB_PAGES[name]
    return SPAWNER_TEMPLATES.get_template(template).render(**(HUB_PAGE | values))


EVERY_HTML = [pytest.param(html_of, name, id=name) for name in PAGES] + [
    pytest.param(hub_html_of, name, id=f"hub: {name}") for name in HUB_PAGES
]
every_page = pytest.mark.parametrize(("rendered", "name"), EVERY_HTML)


@every_page
def test_nothing_is_inline_that_the_content_security_policy_forbids(rendered: Any, name: str) -> None:
    page = Page(rendered(name))
    styles = page.all("style")
    assert page.inline == ["style"] * len(styles)
    assert [style["nonce"] for style in styles] == ["abc123"] * (rendered is hub_html_of)
    assert all(script["src"].startswith(f"{SERVICE_PATH}static/dist/") for script in page.all("script"))
    for tag, attributes in page.tags:
        assert "style" not in attributes
        assert not [attribute for attribute in attributes if attribute.startswith("on")], tag
        assert not attributes.get("href", "").lower().startswith(("javascript:", "data:"))


@every_page
def test_what_strangers_wrote_stays_text(rendered: Any, name: str) -> None:
    html = rendered(name)
    assert "<img src=x" not in html
    assert all(image["src"].endswith(".svg") for image in Page(html).all("img"))


@every_page
def test_every_form_that_posts_carries_the_xsrf_token(rendered: Any, name: str) -> None:
    for form in Page(rendered(name)).forms:
        assert form.method == "post"
        assert form.fields["_xsrf"] == "2|the|token"
        assert form.action.startswith(SERVICE_PATH)


@every_page
def test_a_page_has_one_heading_a_language_and_a_title(rendered: Any, name: str) -> None:
    html = rendered(name)
    page = Page(html)
    assert len(page.all("h1")) == 1
    assert page.all("html")[0]["lang"] == "en"
    assert html.partition("<title>")[2].partition("</title>")[0].strip()
    assert len(page.all("main")) == 1


@every_page
def test_no_two_sentences_run_together(rendered: Any, name: str) -> None:
    assert not re.findall(r"\w+[.:][A-Z]\w+", Page(rendered(name)).text)


@every_page
def test_every_control_has_a_label_and_every_id_is_unique(rendered: Any, name: str) -> None:
    page = Page(rendered(name))
    labelled = {label["for"] for label in page.all("label") if "for" in label}
    for tag in ("input", "textarea", "select"):
        for control in page.all(tag):
            is_labelled = control.get("id") in labelled or control in page.wrapped
            assert control.get("type") == "hidden" or is_labelled, control
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        referred = {attributes[name] for name in ("aria-labelledby", "aria-controls", "for") if name in attributes}
        assert referred <= set(ids)


def test_the_consent_form_posts_exactly_what_was_shown() -> None:
    [form] = Page(html_of("consent, built")).forms
    assert form == Form(
        "post",
        f"{SERVICE_PATH}launches",
        {
            "_xsrf": "2|the|token",
            "repo": "gh/ada/rainfall/main",
            "version": COMMIT,
            "urlpath": "doc/tree/index.ipynb",
            "vo": "vo.notebooks.egi.eu",
        },
    )


def test_terms_and_features_are_asked_for_in_the_name_of_their_vo() -> None:
    (form,) = Page(html_of("consent, terms and features")).forms
    assert form.fields["vo"] == "vo.gpu"
    # What is preselected is ticked, what is offered is not, and nobody has agreed for the person.
    assert [(name, value) for name, value in form.fields.items() if ":" in name] == [("feature:vo.gpu", "token")]
    boxes = {one.get("name"): one for one in Page(html_of("consent, terms and features")).all("input")}
    assert boxes["terms:vo.gpu"]["value"] == "2026-11"
    assert "required" in boxes["terms:vo.gpu"]


def test_a_browser_insists_on_no_terms_that_may_be_another_vos() -> None:
    boxes = {one.get("name"): one for one in Page(html_of("consent, two VOs, terms")).all("input")}
    assert "required" not in boxes["terms:vo.gpu"]


def test_a_vo_that_refuses_cannot_be_chosen() -> None:
    radios = {
        one["value"]: one for one in Page(html_of("consent, one VO refuses")).all("input") if one["type"] == "radio"
    }
    assert "disabled" in radios["vo.gpu"]
    assert "checked" in radios[DEFAULT.vo]
    assert Page(html_of("consent, refused")).forms == []


def test_a_community_instance_shows_its_name_and_logo() -> None:
    page = Page(html_of("consent, hostile policy"))
    assert "https://logos.example.org/a.svg" in {one.get("src") for one in page.all("img")}
    assert "on Replay" in page.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("consent, built", "Built: starts in seconds"),
        ("consent, not built", "such builds took about 2 minutes here"),
        ("consent, first build", "Not built yet: none has succeeded here yet"),
        ("consent, built", "2 GB guaranteed, 4 GB at most"),
        ("consent, two VOs", "0.5 cores guaranteed, 2 cores at most"),
        ("consent, no limits", "as much as the machine has"),
        ("consent, source gone", "The source of this link is gone. It is gone or private."),
        (
            "consent, source gone",
            "commit 5c2f1d6b8f, which this link led to on 26 November 2026. Whether it would lead elsewhere",
        ),
        ("consent, source silent, exact commit", "The source of this link does not answer now."),
        ("consent, source silent, exact commit", ", which this link names for good."),
        ("consent, not built", "Sessions share this machine’s files and network."),
        ("consent, not built", "Somebody else wrote this code."),
        ("consent, another runs", "Your server is running example.org/climate/ice"),
        ("consent, another runs", "Save your work"),
        ("consent, ordinary server", "Your ordinary server is running"),
        ("consent, another starts", "the hub cannot stop it before it has started"),
        ("consent, terms and features", "Back on Monday."),
        ("consent, terms and features", "After 8 hours and 30 minutes at the latest"),
        ("consent, terms and features", "2 × nvidia.com/gpu"),
        ("consent, two VOs, terms", "Graphics processors: 2 × nvidia.com/gpu. Ends after 8 hours and 30 minutes"),
        ("consent, two VOs, terms", "tick that you agree to the terms of use of vo.gpu first"),
        ("consent, one VO refuses", "The policy of vo.gpu denies it."),
        ("consent, refused", "The policy of vo.gpu denies it."),
        ("launch, running, with an end", "stopped at 26 November 2026, 17:00 UTC at the latest"),
        ("launch, ended, too old", "lets a session run for 8 hours at most, and this one had"),
        ("launch, building", "Such builds usually take about 45 seconds."),
        ("launch, failed", "The requirements cannot be resolved."),
        ("launch, choosing", "Your server is running example.org/climate/ice"),
        ("home, empty", "Nothing is running"),
        ("home, running", "4 March 2026, 09:05 UTC"),
        ("home, running", "2 GB guaranteed, 4 GB at most. What is used of it is not available."),
        ("home, running, by the engine", "1.2 GB used of 4 GB, 2 GB guaranteed"),
        ("home, running, by the engine", "0.4 cores used of 2 cores"),
        ("home, running, by the engine", "was ended 3 times because memory ran out (limit 4 GB)"),
        ("home, running, killed once", "was ended once because memory ran out"),
        ("home, running, by the engine", "1 × nvidia.com/gpu"),
        ("home, running, about to end", "1 hour after it was last used. Stay Download my work"),
        ("home, running, by the metrics", "256 MB used of 4 GB"),
        ("home, running, by the metrics", "1 core used; no limit"),
        ("home, running, by its processes", "6 GB used by all its processes, each of which may use 4 GB at most"),
        ("home, running, nothing tells", "What is used is not available."),
        ("home, running, features", "An access token It is in a file."),
        ("home, running, features", "Not yet. Onezone does not answer. It is tried again at 09:07 UTC."),
        ("home, after an end", "Your last session ended: github.com/ada/rainfall, 26 November 2026, 10:00 UTC."),
        ("home, after an end", "it may use at most 4 GB."),
        ("launch, running, used", "1.2 GB used of 4 GB"),
        ("launch, running, another's report", "What is used of it is not available."),
        ("launch, died", "it may use at most 4 GB."),
        ("error", "0a1b2c3d"),
    ],
)
def test_a_page_says(name: str, text: str) -> None:
    assert text in " ".join(Page(html_of(name)).text.split())


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("consent, built", "github.com/ada/rainfall", "https://github.com/ada/rainfall"),
        ("consent, runs already", "Open the running session", "/user/ada/doc/tree/index.ipynb"),
        ("consent, another runs", "Open the running one", "/user/ada/"),
        ("consent, another on its way", "See the launch on its way", f"{SERVICE_PATH}launches/{'2e' * 16}"),
        ("launch, running", "Open your session", "/user/ada/lab/tree/index.ipynb"),
        ("home, after an end", "Launch it again", "/v2/gh/ada/rainfall/main?urlpath=lab/tree/index.ipynb"),
        ("launch, choosing", "Open the running one", "/user/ada/"),
        ("launch, failed", "Try again", "/v2/gh/ada/rainfall/main?urlpath=lab/tree/index.ipynb"),
        ("launch, ended", "Launch again", "/v2/gh/ada/rainfall/main?urlpath=lab/tree/index.ipynb"),
        ("home, on its way", "See the launch", f"{SERVICE_PATH}launches/{'2e' * 16}"),
        ("error, nearest", "main", "/v2/gh/ada/rainfall/main"),
        ("error, archived", f"swh/swh:1:rev:{COMMIT}", f"/v2/swh/swh:1:rev:{COMMIT}?urlpath=lab"),
        ("error, in no VO", "vo.one", "https://vo.example.org/?a=b&c=d"),
    ],
)
def test_a_page_leads_on(name: str, text: str, where: str) -> None:
    html = html_of(name)
    assert Page(html).href_of(text, html) == where


@pytest.mark.parametrize(
    ("name", "instead_of"),
    [
        ("consent, another runs", "2e" * 16),
        ("consent, another on its way", "2e" * 16),
        ("consent, ordinary server", ""),
        ("consent, server stops", ""),
    ],
)
def test_to_stop_and_launch_names_what_the_person_saw(name: str, instead_of: str) -> None:
    [form] = Page(html_of(name)).forms
    assert (form.fields["replace"], form.fields["instead_of"]) == ("1", instead_of)


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("launch, building", ["give-up"]),
        ("launch, starting", []),
        ("launch, choosing", ["replace", "give-up"]),
        ("launch, choosing, another starts", ["give-up"]),
        ("launch, choosing, free meanwhile", ["replace", "give-up"]),
        ("launch, running", []),
        ("launch, failed", []),
        ("launch, ended", []),
    ],
)
def test_a_launch_offers_what_can_be_done_with_it(name: str, actions: list[str]) -> None:
    forms = [form for form in Page(html_of(name)).forms if "action" in form.fields]
    assert [form.fields["action"] for form in forms] == actions
    assert all(form.action == f"{SERVICE_PATH}launches/{'1f' * 16}/choice" for form in forms)


@pytest.mark.parametrize("name", PAGES)
def test_only_a_launch_on_its_way_is_looked_at_again_without_a_script(name: str) -> None:
    is_on_its_way = name.startswith(("launch, waiting", "launch, building", "launch, starting"))
    refreshes = [meta for meta in Page(html_of(name)).all("meta") if meta.get("http-equiv") == "refresh"]
    assert refreshes == [{"http-equiv": "refresh", "content": "5"}] * is_on_its_way


def test_the_launch_page_tells_its_script_where_the_events_are() -> None:
    [root] = [attributes for _, attributes in Page(html_of("launch, building")).tags if "data-launch" in attributes]
    assert root["data-events"] == f"{SERVICE_PATH}api/launches/{'1f' * 16}/events"
    assert (root["data-state"], root["data-xsrf"]) == ("building", "2|the|token")


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("launch, waiting", "current pending pending pending pending pending"),
        ("launch, starting", "done done done done current pending"),
        ("launch, starting, built before", "done skipped skipped done current pending"),
    ],
)
def test_the_phases_say_no_more_than_is_known(name: str, states: str) -> None:
    items = [item for item in Page(html_of(name)).all("li") if "data-phase" in item]
    assert " ".join(item["data-state"] for item in items) == states


def test_an_end_is_told_until_the_next_launch() -> None:
    assert "Your last session ended" not in Page(html_of("home, launched since an end")).text


@pytest.mark.parametrize(
    ("name", "meters"),
    [
        ("home, running, by the engine", [("Memory used", 4 * GB, GB * 5 // 4), ("Processor used", 2.0, 0.42)]),
        ("home, running, by the metrics", [("Memory used", 4 * GB, GB // 4)]),
        # The limit is of each process, so the sum of all is no part of it.
        ("home, running, by its processes", []),
        ("home, running, nothing tells", []),
    ],
)
def test_a_meter_shows_what_is_used_of_a_limit(name: str, meters: list[tuple[str, float, float]]) -> None:
    found = [(one["aria-label"], float(one["max"]), float(one["value"])) for one in Page(html_of(name)).all("meter")]
    assert found == meters


@pytest.mark.parametrize("name", ["home, running, by the engine", "launch, running, used", "home, ordinary server"])
def test_what_runs_can_be_stopped(name: str) -> None:
    assert [form.action for form in Page(html_of(name)).forms].count(f"{SERVICE_PATH}servers/stop") == 1


def test_a_repository_without_a_web_address_is_no_link() -> None:
    assert "javascript:" not in str([link["href"] for link in Page(html_of("consent, hostile")).all("a")])
    assert Page(html_of("consent, built")).all("a")[3]["rel"] == "noopener noreferrer"


def test_someone_who_is_not_logged_in_sees_what_the_link_means_and_one_button() -> None:
    html = hub_html_of("link")
    page = Page(html)
    assert "https://github.com/ada/rainfall" in page.text
    assert "Nothing has been started; nothing was requested." in page.text
    assert page.href_of("Log in to continue", html) == HUB_PAGE["login_url"]
    assert [link["class"] for link in page.all("a")] == ["brand", "button"]


def test_someone_who_is_not_logged_in_sees_both_repositories_of_a_link() -> None:
    text = " ".join(Page(hub_html_of("link with content")).text.split())
    assert "This link opens two repositories Environment of https://github.com/ada/rainfall" in text
    assert "Files of https://github.com/carla/ice Their branch, tag, commit or version v1" in text
    assert (LinkPreview.of("gh/ada/rainfall/main", "content=svn/x").problem or "").startswith("The second repository")


def test_a_record_is_shown_with_its_title_licence_and_version_and_can_be_shared_as_that() -> None:
    page = Page(html_of("consent, a record"))
    for told in ("Rain of a year", "cc-by-4.0", "Version 101", "doi.org/10.5281/zenodo.100"):
        assert told in " ".join(page.text.split()), told
    assert "Commit" not in page.text
    html = html_of("consent, a record")
    assert 'href="https://zenodo.org/records/101"' in html
    assert "/v2/zenodo/10.5281/zenodo.101@101-0123456789ab?urlpath=lab/tree/rain.ipynb" in html


def test_two_repositories_are_both_named_with_their_versions_and_agreed_to_as_they_are_shown() -> None:
    html = html_of("consent, content")
    page = Page(html)
    text = " ".join(page.text.split())
    for told in (
        "Run these two repositories?",
        "Environment of github.com/ada/rainfall",
        f"Files of {OTHER.repository.short}",
        f"Their commit {OTHER.short_version}",
        f"Opens the folder {OTHER.repository.folder_name}",
        "Somebody else wrote this code, in both of them.",
    ):
        assert told in text, told
    fields = {one["name"]: one["value"] for one in page.all("input") if one.get("type") == "hidden"}
    assert (fields["content"], fields["content_version"]) == (OTHER.spec.text, OTHER.version)
    assert f"/v2/gh/ada/rainfall/{COMMIT}?content=" in html, "exactly these versions can be shared"
    for name in ("launch, running, content", "home, running, content"):
        assert f"with {OTHER.repository.short} at" in " ".join(Page(html_of(name)).text.split()), name
    record = " ".join(Page(html_of("consent, content of a record")).text.split())
    assert "Their title Rain of a year" in record
    assert "Their version 101" in record


def test_a_link_with_a_problem_offers_no_login() -> None:
    page = Page(hub_html_of("link with a problem"))
    assert "There is no provider “svn” here." in page.text
    assert [link["class"] for link in page.all("a")] == ["brand"]


def test_a_page_about_a_service_that_does_not_answer_has_a_number_that_is_in_the_log() -> None:
    assert "tell the hub’s administrators this number: 0a1b2c3d" in Page(hub_html_of("unavailable")).text


def test_the_style_sheet_can_stand_within_a_page() -> None:
    assert not [word for word in ("</", "url(", "@import") if word in CSS.split("*/", 1)[1]]
