"""Pasting over HTTP, at the API and at home's field, with the real core and a forge that a test directs."""

from collections.abc import AsyncIterator, Collection
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from replay_build_service.domain import Person
from replay_build_service.errors import NotPermitted, OriginRefused, ReplayError, SourceFault, UnknownProvider
from replay_build_service.links import RepoSpec
from replay_build_service.pasted_links import PastedLinks, TellsRefs
from replay_build_service.pasting import MOST_TEXT
from replay_build_service.policies import PolicySet
from replay_build_service.policy_values import Resources
from replay_build_service.providers.git import GitProvider
from replay_build_service.web import make_templates
from replay_build_service.web.auth import RateLimit
from replay_build_service.web.base import HubHandler
from tests.unit.core_fakes import FakeProvider, a_house, a_store
from tests.unit.web_server import served

HOME = "/services/replay/"
ADA = Person("ada", frozenset({"vo.one"}))
SLASHED = "https://github.com/o/r/blob/feature/x/a.ipynb"


class Forge(FakeProvider):
    """A provider that tells its refs."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[RepoSpec] = []

    async def refs(self, spec: RepoSpec) -> Collection[str]:
        self.asked.append(spec)
        if self.fault is not None:
            raise self.fault
        return {"refs/heads/main", "refs/heads/feature/x"}


@pytest.fixture
def forge() -> Forge:
    return Forge()


@pytest.fixture
def pasted(forge: Forge) -> PastedLinks:
    return PastedLinks({"gh": forge, "zenodo": FakeProvider()}, PolicySet.alike({"vo.one": ""}, Resources()))


@pytest.fixture
async def service(tmp_path: Path, pasted: PastedLinks, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """The routes, over a core of which nothing runs; the hub says that it is Ada who asks."""

    async def prepare(handler: HubHandler) -> None:
        handler.person = ADA
        handler.current_user = handler._hub_auth_user_cache = None

    monkeypatch.setattr(HubHandler, "prepare", prepare)

    async def no_report(_: str) -> None:
        return None

    async with a_store(tmp_path) as store, a_house(store) as house:
        site: Any = SimpleNamespace(
            base_url=HOME,
            store=store,
            launches=house.launches,
            pasted=pasted,
            managing=SimpleNamespace(managed_by=lambda *_, **__: ()),
            session_report=no_report,
            launch_limit=RateLimit(3, 60),
            templates=make_templates(),
            hub_home_url="/hub/home",
            public_url="https://hub.example.org",
        )
        async with served(site) as client:
            yield client


def test_git_providers_tell_refs() -> None:
    assert issubclass(GitProvider, TellsRefs)


# what is asked of whom


async def test_a_branch_with_slashes_is_told_by_the_repository(pasted: PastedLinks, forge: Forge) -> None:
    found = await pasted.find(ADA, SLASHED)
    assert found.link == "/v2/gh/o/r/feature/x?urlpath=lab/tree/a.ipynb"
    assert [spec.locator for spec in forge.asked] == ["o/r"]


@pytest.mark.parametrize("text", ["o/r", "https://github.com/o/r/tree/main", "10.5281/zenodo.3242074", "hello"])
async def test_nobody_is_asked_where_the_text_tells_all(pasted: PastedLinks, forge: Forge, text: str) -> None:
    try:
        await pasted.find(ADA, text)
    except ReplayError:
        assert text == "hello"
    assert forge.asked == []


async def test_nobody_is_asked_for_a_person_who_may_launch_nothing(pasted: PastedLinks, forge: Forge) -> None:
    with pytest.raises(NotPermitted):
        await pasted.find(Person("eve", frozenset()), SLASHED)
    assert forge.asked == []
    assert (await pasted.find(Person("eve", frozenset()), "o/r")).link == "/v2/gh/o/r/HEAD"


async def test_a_source_that_is_silent_leaves_the_first_part_and_a_note(pasted: PastedLinks, forge: Forge) -> None:
    forge.fault = SourceFault("github.com does not answer.")
    found = await pasted.find(ADA, SLASHED)
    assert found.link == "/v2/gh/o/r/feature?urlpath=lab/tree/x/a.ipynb"
    assert found.notes == (
        "github.com does not answer. So it is not known where the branch’s name ends; “feature” was taken for it.",
    )


async def test_a_host_that_may_not_be_asked_is_told_so(pasted: PastedLinks, forge: Forge) -> None:
    forge.fault = OriginRefused("No.")
    with pytest.raises(OriginRefused):
        await pasted.find(ADA, SLASHED)


async def test_what_this_service_cannot_get_is_told_at_once(pasted: PastedLinks) -> None:
    with pytest.raises(UnknownProvider, match=r"https://osf\.io/abc12, and this Replay has no provider “osf”"):
        await pasted.find(ADA, "https://osf.io/abc12/")


async def test_a_provider_without_refs_leaves_the_first_part() -> None:
    plain = PastedLinks({"gh": FakeProvider()}, PolicySet.alike({"vo.one": ""}, Resources()))
    assert (await plain.find(ADA, SLASHED)).spec.ref == "feature"


# the API


async def test_the_api_gives_the_link_in_its_parts(service: httpx.AsyncClient) -> None:
    answer = await service.post("api/resolve", json={"text": f" <{SLASHED}> "})
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "link": "/v2/gh/o/r/feature/x?urlpath=lab/tree/a.ipynb",
            "spec": "gh/o/r/feature/x",
            "urlpath": "lab/tree/a.ipynb",
            "content": "",
            "repository": "https://github.com/o/r",
            "notes": [],
        },
    )


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"text": "hello"}, "Replay cannot read this. Paste the address of a repository"),
        ({"text": "x" * (MOST_TEXT + 1)}, f"text: String should have at most {MOST_TEXT} characters."),
        ({}, "text: Field required."),
        ({"text": "o/r", "more": 1}, "more: Extra inputs are not permitted."),
    ],
)
async def test_what_the_api_cannot_read_is_a_sentence(
    service: httpx.AsyncClient, body: dict[str, Any], sentence: str
) -> None:
    answer = await service.post("api/resolve", json=body)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(sentence)


async def test_pasting_is_limited_like_launches(service: httpx.AsyncClient) -> None:
    asked = [await service.post("api/resolve", content=body) for body in (b'{"text": "o/r"}', b"{", b"")]
    assert [answer.status_code for answer in asked] == [200, 400, 400]
    assert (await service.post("api/resolve", json={"text": "o/r"})).status_code == 429
    assert (await service.post("", data={"text": "o/r"})).status_code == 429


# the field


class _Field(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.field: dict[str, str | None] = {}
        self.buttons: list[str | None] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if attributes.get("id") == "pasted":
            self.field = attributes
        if attributes.get("class") == "button":
            self.buttons.append(attributes.get("href"))


async def test_what_is_pasted_at_home_leads_to_its_link(service: httpx.AsyncClient) -> None:
    assert _Field((await service.get("")).text).field["value"] == ""
    answer = await service.post("", data={"text": SLASHED})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/v2/gh/o/r/feature/x?urlpath=lab/tree/a.ipynb")


async def test_what_cannot_be_read_is_told_at_the_field_which_keeps_the_text(service: httpx.AsyncClient) -> None:
    answer = await service.post("", data={"text": 'hello "<b>world</b>"'})
    field = _Field(answer.text).field
    assert answer.status_code == 400
    assert field["value"] == 'hello "<b>world</b>"'
    assert field["aria-invalid"] == "true"
    assert "<b>" not in answer.text
    assert '<p class="failure" id="pasted-problem">Replay cannot read this.' in answer.text


async def test_what_is_to_be_said_is_said_before_going_on(service: httpx.AsyncClient) -> None:
    answer = await service.post("", data={"text": "https://ada:hunter2@github.com/o/r.git"})
    assert answer.status_code == 200
    assert "The password or token in the address was left out" in answer.text
    assert "/v2/gh/o/r/HEAD" in _Field(answer.text).buttons
    assert "hunter2" not in answer.text


async def test_nothing_pasted_is_a_sentence_too(service: httpx.AsyncClient) -> None:
    assert (await service.post("", data={})).status_code == 400
