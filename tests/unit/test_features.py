"""Features of a session: prepared within bounds, renewed in time, cleaned up, whatever they do."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from replay_spawner.features import keeping
from replay_spawner.features import token as token_feature
from replay_spawner.features.base import Feature, Given, Platform, SessionContext, SessionFile, Unavailable
from replay_spawner.features.keeping import SessionFeatures
from replay_spawner.features.loading import NoSuchFeature, feature_class
from replay_spawner.features.places import KeptFeatures, NoPlace, checked, path_in_session
from replay_spawner.features.token import AccessToken
from replay_spawner.features.tokens import tokens_of
from tests.unit.launch_plans import LAUNCH

LOG = logging.getLogger("features")


class Tokens:
    """A source of tokens that a test rules."""

    def __init__(self, life: float = 0.2) -> None:
        self.life = life
        self.given: list[str] = []
        self.given_back: list[str] = []
        self.fault: Exception | None = None

    async def obtain(self) -> Any:
        if self.fault:
            raise self.fault
        self.given.append(f"token-{len(self.given)}")
        return _Token(self.given[-1], time.time() + self.life)

    async def give_back(self, value: str) -> None:
        self.given_back.append(value)


class _Token:
    def __init__(self, value: str, expires_at: float) -> None:
        self.value, self.expires_at = value, expires_at


class Folder:
    """A place for files, in memory."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.deliveries = 0
        self.fault: Exception | None = None
        self.changed = asyncio.Event()

    async def deliver(self, files: Sequence[SessionFile]) -> None:
        self.changed.set()
        if self.fault:
            raise self.fault
        self.deliveries += 1
        self.files |= {(one.folder, one.name): one.content for one in files if one.content is not None}

    async def read(self, files: Sequence[SessionFile]) -> Mapping[tuple[str, str], bytes]:
        return {(one.folder, one.name): self.files[one.folder, one.name] for one in files}


def context(**changes: Any) -> SessionContext:
    values: dict[str, Any] = {
        "launch": LAUNCH, "user": "ada", "vo": "vo", "repository": "https://example.org/r", "version": "c0ffee",
        "platform": Platform.PROCESS, "home": "/home/jovyan", "tokens": Tokens(),
    }  # fmt: skip
    return SessionContext(**values | changes)


def made(kind: type[Feature], **changes: Any) -> Any:
    feature = kind()
    feature.session = context(**changes)
    return feature


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.01)


class Steady(Feature):
    name, title = "steady", "Something steady"

    async def prepare(self) -> Given:
        return Given({"STEADY": "1"}, [SessionFile("/srv/steady", "file", b"1")])


class Failing(Feature):
    """Does in each phase what the test says."""

    name, title = "failing", "Something that fails"

    async def prepare(self) -> Given:
        await self.acts("prepare")
        return Given(files=[SessionFile("/srv/failing", "file", b"1")], renew_at=time.time())

    async def renew(self) -> Given:
        await self.acts("renew")
        return Given(files=[SessionFile("/srv/failing", "file", b"2")])

    async def clean_up(self) -> None:
        await self.acts("clean_up")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.does: dict[str, Exception | str] = {}

    async def acts(self, phase: str) -> None:
        match self.does.get(phase):
            case "hang":
                await asyncio.Event().wait()
            case Exception() as error:
                raise error
            case _:
                pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "PHASE_SECONDS", 0.05)
    monkeypatch.setattr(keeping, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(keeping, "_LOOK_SECONDS", 0.01)


@pytest.mark.parametrize("phase", ["prepare", "renew", "clean_up"])
@pytest.mark.parametrize("does", [RuntimeError("broken"), Unavailable("not now."), OSError("no"), "hang"])
@pytest.mark.usefixtures("quick")
async def test_a_feature_that_fails_in_any_phase_takes_nothing_from_the_others(
    phase: str, does: Exception | str
) -> None:
    failing, steady, token = made(Failing), made(Steady), made(AccessToken)
    failing.does[phase] = does
    features, folder = SessionFeatures([failing, steady, token], LOG), Folder()
    await features.prepare()
    assert features.environment == {"STEADY": "1"}
    await folder.deliver(features.files)
    features.keep_fresh(folder)
    async with asyncio.timeout(5):
        await until(lambda: len(token.session.tokens.given) > 1)
        await features.end()
    failed, steady_report, token_report = features.reports()
    assert (steady_report.state, token_report.state) == ("given", "given")
    match phase:
        case "prepare":
            assert failed.state == "absent"
            assert failed.sentence.endswith(".")
            assert ("/srv/failing", "file") not in folder.files
        case "renew":
            assert failed.state == "delayed"
            assert failed.next_try is not None
            assert folder.files["/srv/failing", "file"] == b"1"
        case _:
            assert failed.state == "given"
            assert folder.files["/srv/failing", "file"] == b"2"
    assert set(token.session.tokens.given_back) <= set(token.session.tokens.given)
    assert token.session.tokens.given[-1] in token.session.tokens.given_back


@pytest.mark.usefixtures("quick")
async def test_what_cannot_be_brought_into_the_session_is_brought_later_and_obtained_once() -> None:
    token, folder = made(AccessToken, tokens=Tokens(life=3600)), Folder()
    features = SessionFeatures([token], LOG)
    await features.prepare()
    features.not_brought()
    folder.fault = RuntimeError("the engine is away")
    features.keep_fresh(folder)
    async with asyncio.timeout(5):
        await folder.changed.wait()
        folder.fault = None
        await until(lambda: folder.files)
    assert token.session.tokens.given == ["token-0"]
    assert features.reports()[0].state == "given"
    await features.end()


@pytest.mark.usefixtures("quick")
async def test_a_restarted_hub_renews_at_once_and_gives_back_what_the_session_had() -> None:
    folder = Folder()
    folder.files["/var/run/secrets/egi.eu", "access_token"] = b"token-of-before"
    token = made(AccessToken, tokens=Tokens(life=3600))
    features = SessionFeatures([token], LOG)
    features.resume(folder, [SessionFile("/var/run/secrets/egi.eu", "access_token", None)])
    async with asyncio.timeout(5):
        await until(lambda: folder.deliveries)
    assert folder.files["/var/run/secrets/egi.eu", "access_token"] == b"token-0"
    await features.end()
    assert sorted(token.session.tokens.given_back) == ["token-0", "token-of-before"]


async def test_a_token_is_renewed_ten_minutes_before_it_expires_at_the_latest() -> None:
    for life in (1200, 3600, 86_400):
        given = await made(AccessToken, tokens=Tokens(life=life)).prepare()
        assert given.renew_at is not None
        assert given.renew_at <= time.time() + life - 600 + 1


async def test_a_token_that_cannot_be_had_leaves_its_place_free_and_says_so() -> None:
    tokens = Tokens()
    tokens.fault = Unavailable("Check-in does not answer.")
    given = await made(AccessToken, tokens=tokens).prepare()
    assert [(file.name, file.content) for file in given.files] == [("access_token", None)]
    assert "Check-in does not answer." in given.notice
    assert given.renew_at is not None
    assert not given.is_complete


@pytest.mark.parametrize("tokens", [None, Tokens()])
async def test_where_there_will_be_no_token_there_is_no_place_for_one(tokens: Tokens | None) -> None:
    if tokens is not None:
        tokens.fault = Unavailable("You have to log in again.", is_final=True)
    given = await made(AccessToken, tokens=tokens).prepare()
    assert (given.files, given.renew_at) == ((), None)
    assert given.notice


async def test_what_this_hub_does_not_know_is_said() -> None:
    features = SessionFeatures([], LOG, lacking=["gone"])
    await features.prepare()
    (report,) = features.reports()
    assert (report.name, report.state) == ("gone", "absent")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("relative", "file"), ("/", "file"), ("/a/../b", "file"), ("/a/", "file"), ("{home}x", "file"), ("/a//b", "file"),
        ("/a", ""), ("/a", "../b"), ("/a", "a/b"), ("/a", "ä"), ("/a", ".hidden"), ("/a", "x" * 101),
    ],
)  # fmt: skip
def test_places_that_cannot_be_are_refused(folder: str, name: str) -> None:
    with pytest.raises(NoPlace):
        checked([SessionFile(folder, name, b"")])


def test_no_two_features_share_a_place() -> None:
    with pytest.raises(NoPlace, match="twice"):
        checked([SessionFile("/a", "b", b"1"), SessionFile("/a", "b", b"2")])
    apart = [SessionFile("/a", "b", b"1"), SessionFile("/a", "b", b"2", container="sidecar")]
    assert checked(apart) == apart


def test_paths_are_those_that_the_session_sees() -> None:
    assert (
        path_in_session(SessionFile("{home}/.replay", "launch.json", b""), "/home/ada")
        == "/home/ada/.replay/launch.json"
    )
    assert path_in_session(SessionFile("{home}", "a", b""), "/home/ada/") == "/home/ada/a"
    assert path_in_session(SessionFile("/var/run", "a", b""), "/home/ada") == "/var/run/a"


def test_what_the_hub_keeps_of_features_holds_no_secret() -> None:
    files = [SessionFile("/a", "b", b"secret", variable="B")]
    kept = KeptFeatures.of(context(has=frozenset({"datahub"})), ["token"], files)
    text = kept.model_dump_json()
    assert "secret" not in text.replace("is_secret", "")
    again = KeptFeatures.in_state({"replay_features": kept.model_dump(mode="json")})
    assert again == kept
    assert again.places == [SessionFile("/a", "b", None, variable="B")]
    assert KeptFeatures.in_state({}) is None


def test_features_are_found_by_their_entry_points() -> None:
    assert feature_class("token") is AccessToken
    with pytest.raises(NoSuchFeature, match="no package"):
        feature_class("no-such-feature")


class Odd(Feature):
    """Returns what no feature may, or wants to be asked again at once."""

    name, title = "odd", "Something odd"
    returns: Any = None
    asked = 0

    async def prepare(self) -> Given:
        return Given(renew_at=time.time())

    async def renew(self) -> Given:
        self.asked += 1
        return self.returns


@pytest.mark.parametrize(
    "returns",
    [None, {"files": []}, Given(files=[SessionFile("relative", "file", b"")]), Given(renew_at=0.0)],
    ids=["nothing", "a-dict", "no-place", "at-once"],
)
async def test_whatever_renewing_returns_the_hub_has_time_for_others(returns: Any) -> None:
    odd, token, folder = made(Odd), made(AccessToken, tokens=Tokens(life=0.4)), Folder()
    odd.returns = returns
    features = SessionFeatures([odd, token], LOG)
    await features.prepare()
    features.keep_fresh(folder)
    async with asyncio.timeout(10):
        await until(lambda: len(token.session.tokens.given) > 2)
    assert odd.asked < 40
    assert features.reports()[0].state == ("given" if returns == Given(renew_at=0.0) else "delayed")
    await features.end()


async def test_what_prepares_to_nothing_usable_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    odd, steady = made(Odd), made(Steady)

    async def prepare() -> Any:
        return Given(files=[SessionFile("/a", "../b", b"")])

    monkeypatch.setattr(odd, "prepare", prepare)
    features = SessionFeatures([odd, steady], LOG)
    await features.prepare()
    assert [file.folder for file in features.files] == ["/srv/steady"]
    assert [report.state for report in features.reports()] == ["absent", "given"]
    assert features.names == ["steady"]


async def test_a_source_that_hangs_leaves_the_tokens_place_free(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Tokens):
        async def obtain(self) -> Any:
            await asyncio.Event().wait()

    monkeypatch.setattr(token_feature, "OBTAIN_SECONDS", 0.01)
    features = SessionFeatures([made(AccessToken, tokens=Hanging())], LOG)
    await features.prepare()
    (report,) = features.reports()
    assert (report.state, [file.name for file in features.files]) == ("delayed", ["access_token"])
    assert report.next_try is not None


async def test_obtaining_goes_on_where_nobody_waits_and_what_comes_is_given_back() -> None:
    arrived, given_back = asyncio.Event(), asyncio.Event()

    class Login:
        async def session_token(self, user: Any) -> Any:
            await arrived.wait()
            return _Token("late", time.time() + 3600)

        async def end_session_token(self, user: Any, value: str) -> None:
            assert value == "late"
            given_back.set()

    source = tokens_of(Login(), None)
    assert source is not None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(source.obtain(), 0.01)
    arrived.set()
    await asyncio.wait_for(given_back.wait(), 5)


async def test_a_login_that_gives_none_is_no_source_and_what_it_tells_is_told_on() -> None:
    class Refused(Exception):
        is_final = True

    class Login:
        async def session_token(self, user: Any) -> Any:
            raise Refused("Log in again.")

        async def end_session_token(self, user: Any, value: str) -> None:
            pass

    assert tokens_of(object(), None) is None
    source = tokens_of(Login(), None)
    assert source is not None
    with pytest.raises(Unavailable, match="Log in again"):
        await source.obtain()
