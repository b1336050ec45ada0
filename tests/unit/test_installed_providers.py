"""Providers of other packages: which are taken, why others are not, and what their answers are held to."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replay_build_service import syntax as syntax_room
from replay_build_service.assembly import UnusableSettings
from replay_build_service.assembly.providers import installed_providers
from replay_build_service.errors import BadLink, OriginRefused, RefNotFound, SourceFault, UnknownProvider
from replay_build_service.installed import InstalledProvider
from replay_build_service.link_schemas import LinkPreview
from replay_build_service.links import Repository, RepoSpec, ResolvedRef
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.loading import UnusableProvider, WatchedProvider, make_installed
from replay_build_service.syntax import RefRule, Syntax
from replay_spawner import link_handlers
from tests.requirements import ROOT
from tests.toy_provider import MODULE, install

pytestmark = pytest.mark.one_hub_version

SHA = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
SYNTAX = "from replay_build_service.syntax import Syntax\n"


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test installs is not there in the next."""
    monkeypatch.setattr(syntax_room, "_SYNTAXES", dict(syntax_room._SYNTAXES))
    for module in ("replay_toy_provider", "broken"):
        monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.fixture
def installing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a package of a module ``broken`` with that text, which has these providers."""

    def installs(text: str, **providers: str) -> None:
        folder = install(tmp_path / "packages", **providers)
        (folder / "broken.py").write_text(text)
        monkeypatch.syspath_prepend(folder)

    return installs


def test_a_package_that_is_installed_brings_its_links(installing: Callable[..., None]) -> None:
    assert LinkPreview.of("toy/hello").problem is not None
    installing("")
    (toy,) = installed_providers()
    assert (toy.name, toy.package) == ("toy", "replay-toy-provider 1.0")
    spec = RepoSpec.parse("toy/hello")
    assert (spec.url, spec.ref, spec.text) == ("https://git.example.org/hello.git", "HEAD", "toy/hello/HEAD")
    with pytest.raises(BadLink, match="lower-case letters"):
        RepoSpec.parse("toy/HELLO")
    assert installed_providers() == [toy]  # and again, as a service does that makes them later


def test_the_how_to_shows_the_toy() -> None:
    first, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "providers.md").read_text(), re.DOTALL)
    assert MODULE.read_text().partition('"""\n\n')[2] == first


def test_the_hub_learns_the_links_where_its_own_are_set_up(installing: Callable[..., None]) -> None:
    installing("")
    link_handlers("http://127.0.0.1:1/services/replay/", "token")
    assert LinkPreview.of("toy/hello/v1.0") == LinkPreview(
        repository="https://git.example.org/hello.git", ref="v1.0", spec="toy/hello/v1.0"
    )


@pytest.mark.parametrize(
    ("text", "providers", "why"),
    [
        ("raise RuntimeError('no such planet')", {"toy": "broken:Toy"}, "cannot be imported (RuntimeError: no such planet)"),
        ("", {"toy": "broken:Toy"}, "cannot be imported (AttributeError"),
        ("", {"toy": "missing:Toy"}, "cannot be imported (ModuleNotFoundError"),
        ("class Toy: pass", {"toy": "broken:Toy"}, "broken:Toy is no factory with a Syntax"),
        (SYNTAX + "class Toy: syntax = Syntax('other', '', str)", {"toy": "broken:Toy"}, "is that of “other”"),
        (SYNTAX + "class Toy: syntax = Syntax('To_y', '', str)", {"To_y": "broken:Toy"}, "no name for a provider"),
        (SYNTAX + "class Toy: syntax = Syntax('gh', '', str)", {"gh": "broken:Toy"}, "Replay has a provider of that name"),
    ],
    ids=["raises", "has nothing", "not there", "no syntax", "another's syntax", "no name", "a name that is taken"],
)  # fmt: skip
def test_one_that_cannot_be_used_is_told_before_the_service_starts(
    installing: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    text: str,
    providers: dict[str, str],
    why: str,
) -> None:
    installing(text, **providers)
    name = next(iter(providers))
    known = syntax_room.known_syntaxes()
    with pytest.raises(UnusableSettings) as refused:
        installed_providers()
    assert str(refused.value).startswith(f"The provider “{name}” of replay-toy-provider 1.0 cannot be used: ")
    assert why in str(refused.value)
    assert why in caplog.text
    assert syntax_room.known_syntaxes() == known


def test_of_two_packages_with_one_name_neither_is_taken(
    installing: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installing("")
    second = install(tmp_path / "more")
    (second / "replay_toy_provider-1.0.dist-info").rename(second / "another_toy-1.0.dist-info")
    (second / "another_toy-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: another-toy\nVersion: 1.0\n"
    )
    monkeypatch.syspath_prepend(second)
    with pytest.raises(UnusableSettings, match="more than one package brings it"):
        installed_providers()


def test_the_hub_starts_without_the_links_of_a_broken_package(
    installing: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    installing("raise RuntimeError('no such planet')", bad="broken:Toy", toy="replay_toy_provider:ToyProvider")
    assert link_handlers("http://127.0.0.1:1/services/replay/", "token")
    assert "no such planet" in caplog.text
    assert LinkPreview.of("toy/hello").problem is None
    with pytest.raises(UnknownProvider):
        RepoSpec.parse("bad/hello")


# --- Making and watching ----------------------------------------------------------------------------------------------


class Answering:
    """A provider that says what a test wants."""

    syntax = Syntax("toy", "toy/NAME", lambda name: f"https://git.example.org/{name}", 1, RefRule.OPTIONAL)

    def __init__(self, answer: object) -> None:
        self.answer = answer

    name = "toy"

    async def resolve(self, spec: RepoSpec) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def context() -> Any:
    """Factories of these tests look at nothing of it."""
    return ProviderContext(OutgoingRules(), None, None)  # type: ignore[arg-type] # nothing is asked


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        (lambda _: 1 / 0, "cannot be made: ZeroDivisionError"),
        (lambda _: object(), "no RepoProvider of that name"),
        (lambda _: type("Other", (), {"name": "other", "resolve": print})(), "no RepoProvider of that name"),
    ],
    ids=["raises", "no provider", "another name"],
)
def test_a_factory_that_makes_no_provider_is_told(factory: Callable[[Any], object], why: str) -> None:
    with pytest.raises(UnusableProvider, match=f"“toy” of toys 1.0 .*{why}"):
        make_installed([InstalledProvider("toy", "toys 1.0", factory)], context())


def resolve(answer: object, text: str = "toy/hello") -> ResolvedRef:
    syntax_room.learn(Answering.syntax)
    watched = WatchedProvider(Answering(answer), OutgoingRules(allowed_hosts=frozenset({"git.example.org"})))
    assert watched.name == "toy"
    return asyncio.run(watched.resolve(RepoSpec.parse(text)))


GOOD = ResolvedRef(
    Repository("https://git.example.org/hello"), RepoSpec("toy", "hello", "HEAD"), "https://git.example.org/hello", SHA
)


def test_a_good_answer_passes() -> None:
    assert resolve(GOOD) == GOOD


@pytest.mark.parametrize(
    ("answer", "text", "how"),
    [
        (None, "toy/hello", "is no ResolvedRef"),
        (ValueError("a mistake"), "toy/hello", "failed at toy/hello/HEAD"),
        (replace(GOOD, spec=RepoSpec("toy", "hello", "main")), "toy/hello", "is of another spec"),
        (replace(GOOD, version="main"), "toy/hello", "no version that a link could pin"),
        (replace(GOOD, version=SHA.upper()), "toy/hello", "no version that a link could pin"),
        (replace(GOOD, repository=Repository("https://GIT.example.org/hello.git")), "toy/hello", "not spelled as"),
        (replace(GOOD, repository=Repository("hello")), "toy/hello", "has no address of a repository"),
        (replace(GOOD, spec=RepoSpec("toy", "hello", OTHER)), f"toy/hello/{OTHER}", "another version than the link pins"),
    ],
    ids=["nothing", "an error of its own", "another spec", "a branch", "upper case", "another spelling", "no address", "another commit"],
)  # fmt: skip
def test_an_answer_that_breaks_a_promise_goes_nowhere(
    caplog: pytest.LogCaptureFixture, answer: object, text: str, how: str
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(SourceFault, match="“toy” links made a mistake"):
        resolve(answer, text)
    assert how in caplog.text


def test_nothing_is_fetched_from_where_the_hub_may_not_ask() -> None:
    with pytest.raises(OriginRefused, match=r"evil\.example\.org"):
        resolve(replace(GOOD, fetch_url="https://evil.example.org/hello"))


def test_our_own_errors_pass_as_they_are() -> None:
    error = RefNotFound("There is no such branch.", ("main",))
    with pytest.raises(RefNotFound) as raised:
        resolve(error)
    assert raised.value is error
