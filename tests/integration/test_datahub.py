"""What a session gets of the DataHub: with everything well, with nothing there, and with a DataHub that fails in between."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.certificates import certificate_with_key
from demo.checkin import CheckinStandIn
from demo.checkin_controls import Endpoint as CheckinEndpoint
from demo.onezone import OnezoneStandIn
from demo.onezone_controls import ELSEWHERE, Endpoint, Failing, Fault, Space
from demo.people import ADA
from replay_spawner.features.base import Given, Platform, SessionContext, SessionFile, Token, Unavailable
from replay_spawner.features.datahub import DataHub, pods
from replay_spawner.features.datahub.onezone import Onezone
from replay_spawner.features.places import checked
from tests.requirements import ROOT

pytestmark = pytest.mark.one_hub_version

SPACE = "5ace0000000000000000000000000001"


@dataclass(frozen=True)
class AccessToken:
    value: str
    expires_at: float


@dataclass
class Login:
    """A source of tokens: those of the stand-in for Check-in."""

    checkin: CheckinStandIn
    error: Unavailable | None = None
    obtained: list[str] = field(default_factory=list)
    given_back: list[str] = field(default_factory=list)

    async def obtain(self) -> Token:
        if self.error is not None:
            raise self.error
        self.obtained.append(self.checkin.give_access_token(ADA))
        return AccessToken(self.obtained[-1], time.time() + 3600)

    async def give_back(self, value: str) -> None:
        self.given_back.append(value)


@pytest.fixture(scope="module")
def checkin() -> Iterator[CheckinStandIn]:
    with CheckinStandIn(client_id="app", client_secret="secret", redirect_uris=["http://127.0.0.1/x"]) as checkin:
        yield checkin


@pytest.fixture
def login(checkin: CheckinStandIn) -> Login:
    return Login(checkin)


@pytest.fixture
def onezone(checkin: CheckinStandIn) -> Iterator[OnezoneStandIn]:
    Onezone._known_providers.clear()
    with OnezoneStandIn(userinfo_url=checkin.url_of(CheckinEndpoint.USERINFO), provider_port=0) as onezone:
        yield onezone


def feature(
    onezone: OnezoneStandIn,
    login: Login | None,
    platform: Platform = Platform.PROCESS,
    has: frozenset[str] | None = frozenset(),
    home: str = "/home/jovyan",
    **settings: Any,
) -> DataHub:
    made = DataHub(**{"onezone_url": onezone.url, "oneprovider": onezone.provider, "timeout": 12, **settings})
    made.session = SessionContext(
        launch="0" * 32,
        user="ada",
        vo="vo.example.org",
        repository="https://example.org/r",
        version="1",
        platform=platform,
        home=home,
        has=has,
        tokens=login,
    )
    return made


def place(file: SessionFile) -> tuple[str, str]:
    return file.folder, file.name


def texts(given: Given) -> dict[str, str]:
    return {file.name: file.content.decode() for file in checked(given.files) if file.content is not None}


def asked_of_files(onezone: OnezoneStandIn, token: str, method: str, path: str) -> httpx.Response:
    url = f"http://{onezone.provider}/api/v3/oneprovider{path}"
    return httpx.request(method, url, headers={"X-Auth-Token": token}, trust_env=False)


# well


async def test_without_mounts_a_session_gets_a_token_and_is_told_how(onezone: OnezoneStandIn, login: Login) -> None:
    given = await feature(onezone, login).prepare()
    assert given.is_complete
    assert given.notice.startswith("~/datahub/README.md says how to reach your DataHub spaces.")
    assert given.notice.endswith(f" One more space of yours is not supported by {onezone.provider}, and not here.")
    assert {place(file): (file.is_secret, file.variable) for file in given.files} == {
        ("{home}/datahub", "README.md"): (False, ""),
        ("{home}/datahub", "spaces.json"): (False, ""),
        ("{home}/datahub", "expires"): (False, ""),
        ("/var/run/secrets/egi.eu", "datahub_token"): (True, "REPLAY_DATAHUB_TOKEN_FILE"),
    }
    assert given.environment == {"REPLAY_ONEZONE": onezone.host, "REPLAY_ONEPROVIDER": onezone.provider}
    said = texts(given)
    assert '- `datahub.ls("Plankton survey")`' in said["README.md"]
    assert "~/datahub/README.md" not in said["README.md"]
    assert [one["name"] for one in json.loads(said["spaces.json"])] == ["Plankton survey", "Shared results"]
    assert asked_of_files(onezone, said["datahub_token"], "GET", f"/data/{SPACE}/children").status_code == 200
    # What it was obtained with is not in the session, and is given back.
    assert login.given_back == login.obtained
    assert not any(token in str(said) for token in login.obtained)
    assert given.renew_at is not None
    assert time.time() + 1700 < given.renew_at < time.time() + 1900


async def test_a_pod_gets_a_sidecar_that_has_the_token_alone(onezone: OnezoneStandIn, login: Login) -> None:
    given = await feature(onezone, login, Platform.POD).prepare()
    assert given.notice.startswith("Your DataHub spaces are in ~/datahub.")
    assert {file.container for file in given.files} == {"datahub"}
    said = texts(given)
    assert said["links"] == "Plankton survey\tPlankton survey\nShared results\tShared results\n"
    assert said["spaces"].split() == [SPACE, "5ace0000000000000000000000000002"]
    assert said["mount.sh"].startswith("#!/bin/sh")
    assert given.environment == {}
    # It is for oneclient: by REST it is worth nothing.
    assert asked_of_files(onezone, said["token"], "GET", f"/data/{SPACE}/children").status_code == 401
    assert [mount["mountPath"] for mount in given.pod.mounts] == ["/home/jovyan/datahub", "/mnt/datahub"]
    assert said["token"] not in repr(given)


async def test_a_token_may_be_for_reading_alone(onezone: OnezoneStandIn, login: Login) -> None:
    said = texts(await feature(onezone, login, read_only=True).prepare())
    token = said["datahub_token"]
    assert asked_of_files(onezone, token, "GET", f"/data/{SPACE}/children").status_code == 200
    assert asked_of_files(onezone, token, "PUT", f"/data/{SPACE}/path/new").status_code == 401
    assert "Here they can be read only." in said["README.md"]


@pytest.mark.parametrize("platform", [Platform.PROCESS, Platform.POD], ids=str)
@pytest.mark.parametrize(
    ("has", "folder", "why"),
    [
        (frozenset({"index.ipynb"}), "datahub", ""),
        (
            frozenset({"datahub"}),
            "datahub-spaces",
            "This repository has a “datahub” of its own, which is left as it is.",
        ),
        (frozenset({"datahub", "datahub-spaces"}), "datahub-spaces-2", "has a “datahub” of its own"),
        (None, "datahub-spaces", "beside whatever the repository itself calls “datahub”"),
    ],
    ids=["none", "own", "both", "unknown"],
)
async def test_what_the_repository_has_stays_its_own(
    onezone: OnezoneStandIn, login: Login, platform: Platform, has: frozenset[str] | None, folder: str, why: str
) -> None:
    given = await feature(onezone, login, platform, has).prepare()
    assert f"~/{folder}" in given.notice
    assert why in given.notice
    if platform is Platform.POD:
        assert given.pod.mounts[0]["mountPath"] == f"/home/jovyan/{folder}"
    else:
        assert {file.folder for file in given.files if not file.is_secret} == {f"{{home}}/{folder}"}


@pytest.mark.parametrize(
    ("spaces", "words"),
    [
        ([], "You have no DataHub spaces yet."),
        ([Space("5", "far", providers=(ELSEWHERE,))], "supports none of your DataHub spaces (1), so none is here."),
    ],
    ids=["none", "none-here"],
)
@pytest.mark.parametrize("platform", [Platform.PROCESS, Platform.POD], ids=str)
async def test_without_spaces_here_that_is_said_and_looked_at_again(
    onezone: OnezoneStandIn, login: Login, platform: Platform, spaces: list[Space], words: str
) -> None:
    onezone.controls.set_spaces(spaces)
    datahub = feature(onezone, login, platform)
    given = await datahub.prepare()
    assert words in given.notice
    assert words in texts(given)["README.md"]
    assert given.is_complete
    assert onezone.controls.requests[Endpoint.TEMPORARY_TOKEN] == 0
    assert given.renew_at is not None
    onezone.controls.set_spaces([Space("5ace", "New")])
    renewed = await datahub.renew()
    assert "New" in texts(renewed)["README.md"]
    # Whatever comes later has a place from the start.
    assert {place(file) for file in renewed.files} <= {place(file) for file in given.files}
    assert any(file.is_secret and file.content for file in renewed.files)


async def test_ten_thousand_spaces_with_the_longest_names_fit_a_secret(onezone: OnezoneStandIn, login: Login) -> None:
    spaces = [Space(f"s{number:031}", f"{number:05}" + "🐋" * 195) for number in range(10_000)]
    onezone.controls.set_spaces(spaces)
    given = await feature(onezone, login, Platform.POD, request_timeout=10).prepare()
    assert sum(len(file.content or b"") for file in given.files) < 700_000
    assert "You have 10000 spaces there; 200 of them are given" in given.notice
    assert len(texts(given)["links"].splitlines()) == 200


async def test_odd_names_are_told_apart_and_listed(onezone: OnezoneStandIn, login: Login) -> None:
    names = ["a/b", "Same", "Same", "it's `so`", "🐋", "README.md", "tab\tbed"]
    onezone.controls.set_spaces([Space(f"5ace{number}", name) for number, name in enumerate(names)])
    said = texts(await feature(onezone, login, Platform.POD).prepare())
    assert dict(line.split("\t") for line in said["links"].splitlines()) == {
        "Same@5ace1": "Same@5ace1",
        "Same@5ace2": "Same@5ace2",
        "it's `so`": "it's `so`",
        "🐋": "🐋",
        "README.md@5ace5": "README.md",
    }
    assert "- `a/b`: its name cannot be shown as a folder" in said["README.md"]
    assert "- ``it's `so` ``" in said["README.md"] or "- `` it's `so` ``" in said["README.md"]
    by_rest = texts(await feature(onezone, login).prepare())
    assert {one["name"]: one["fsspec"] for one in json.loads(by_rest["spaces.json"])}["a/b"] is None


# failing

FAULTS: list[Fault | str] = ["refused", 500, Failing.HTML, Failing.HANG]


def make_fail(onezone: OnezoneStandIn, fault: Fault | str) -> None:
    if isinstance(fault, str) and fault == "refused":
        onezone.refuse()
    else:
        onezone.controls.fail(fault)  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("platform", [Platform.PROCESS, Platform.POD], ids=str)
async def test_a_datahub_that_fails_stops_no_session_and_comes_later(
    onezone: OnezoneStandIn, login: Login, platform: Platform, fault: Fault | str
) -> None:
    make_fail(onezone, fault)
    datahub = feature(onezone, login, platform, request_timeout=0.3, timeout=1.5)
    given = await datahub.prepare()
    assert not given.is_complete
    assert re.search(r"The DataHub (does not answer as it should|answers too slowly)\.", given.notice)
    said = texts(given)["README.md"]
    assert f"{given.notice} So there are no spaces here at the moment." in said
    assert re.search(r"It is tried again at \d\d:\d\d UTC\.", said)
    assert given.renew_at is not None
    assert time.time() < given.renew_at < time.time() + 70
    assert bool(given.pod.containers) == (platform is Platform.POD)
    assert login.given_back == login.obtained
    onezone.controls.recover()
    onezone.start()
    datahub.request_timeout, datahub.timeout = 4, 12
    renewed = await datahub.renew()
    assert renewed.is_complete
    assert "Plankton survey" in texts(renewed)["README.md"]
    assert {place(file) for file in renewed.files} <= {place(file) for file in given.files}


async def test_while_it_fails_what_a_session_has_goes_on(onezone: OnezoneStandIn, login: Login) -> None:
    datahub = feature(onezone, login)
    first = await datahub.prepare()
    onezone.refuse()
    waits = []
    for _ in range(6):
        failed = await datahub.renew()
        assert failed.files == ()
        assert not failed.is_complete
        assert "What you have goes on until" in failed.notice
        assert failed.renew_at is not None
        waits.append(round(failed.renew_at - time.time(), -1))
    assert waits == [60, 120, 240, 480, 900, 900]
    onezone.start()
    datahub._token_due = time.time() - 1
    renewed = await datahub.renew()
    assert renewed.is_complete
    assert texts(renewed)["datahub_token"] != texts(first)["datahub_token"]


async def test_a_space_that_has_no_name_for_a_while_is_not_taken_away(onezone: OnezoneStandIn, login: Login) -> None:
    datahub = feature(onezone, login, Platform.POD)
    before = texts(await datahub.prepare())
    onezone.controls.fail(503, Endpoint.SPACE)
    renewed = await datahub.renew()
    assert {name: texts(renewed)[name] for name in ("links", "spaces")} == {
        name: before[name] for name in ("links", "spaces")
    }
    # Who never heard their names says that, and takes it for no fact.
    first = await feature(onezone, login, Platform.POD).prepare()
    assert first.notice == "The DataHub did not name any of your spaces."
    assert not first.is_complete


async def test_a_provider_that_is_offline_is_said_and_looked_at_soon(onezone: OnezoneStandIn, login: Login) -> None:
    onezone.controls.provider_is_online = False
    datahub = feature(onezone, login, Platform.POD)
    given = await datahub.prepare()
    assert "is offline at the moment" in given.notice
    assert not given.is_complete
    assert texts(given)["token"]
    onezone.controls.provider_is_online = True
    renewed = await datahub.renew()
    assert renewed.is_complete
    # The token is good for long, and another one would have everything mounted anew.
    assert "token" not in texts(renewed)


@pytest.mark.parametrize("platform", [Platform.PROCESS, Platform.POD], ids=str)
async def test_without_tokens_or_settings_there_is_nothing_and_that_is_said(
    onezone: OnezoneStandIn, login: Login, platform: Platform
) -> None:
    logged_out = Login(login.checkin, Unavailable("Log in again.", is_final=True))
    for datahub, words in (
        (feature(onezone, None, platform), "gives no access tokens"),
        (feature(onezone, login, platform, oneprovider=""), "which Oneprovider to use"),
        (feature(onezone, logged_out, platform), "Log in again."),
    ):
        given = await datahub.prepare()
        assert words in given.notice
        assert words in texts(given)["README.md"]
        assert (given.renew_at, given.is_complete, given.pod.containers) == (None, False, ())
        # Found by a hub that was restarted: this session has no place for them.
        found = {place(file): file.content or b"" for file in given.files}
        again = await datahub.resume(found)
        assert (again.files, again.renew_at) == ((), None)


async def test_a_restarted_hub_leaves_a_mount_alone_that_is_good_for_long(
    onezone: OnezoneStandIn, login: Login
) -> None:
    given = await feature(onezone, login, Platform.POD).prepare()
    found = {place(file): file.content or b"" for file in given.files}
    resumed = await feature(onezone, login, Platform.POD).resume(found)
    assert (resumed.files, resumed.is_complete) == ((), True)
    assert resumed.renew_at is not None
    assert resumed.renew_at > time.time() + 3600
    for stale in (
        {},
        found | {(pods.FILES, "expires"): b"17\n"},
        found | {(pods.FILES, "expires"): b"nonsense"},
        found | {(pods.FILES, "expires"): b"inf"},
    ):
        renewed = await feature(onezone, login, Platform.POD).resume(stale)
        assert texts(renewed)["token"] != given


@pytest.mark.parametrize(
    "settings",
    [
        {"onezone_url": "http://datahub.example.org"},
        {"onezone_url": "datahub.example.org"},
        {"onezone_url": "https://user:secret@datahub.example.org"},
        {"onezone_url": "https://datahub.example.org/api"},
        {"oneprovider": "https://provider.example.org"},
        {"oneprovider": "provider.example.org/x"},
        {"oneprovider": "$(EVIL)"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(settings: Mapping[str, str]) -> None:
    with pytest.raises(ValueError, match=r"is no (address|host) of a One"):
        DataHub(**settings)


# as researchers use it


def snippets() -> list[str]:
    """What docs/data.md has for Python by REST."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    return [one for one in found if "onedatarestfsspec" in one]


@pytest.mark.timeout(180)
async def test_what_readme_and_guide_say_works(checkin: CheckinStandIn, login: Login, tmp_path: Path) -> None:
    both, alone = certificate_with_key(tmp_path)
    onezone = OnezoneStandIn(userinfo_url=checkin.url_of(CheckinEndpoint.USERINFO), certificate=both)
    with onezone:
        given = await feature(onezone, login, home=str(tmp_path), ca_file=str(alone)).prepare()
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **given.environment}
        for file in given.files:
            folder = Path(file.folder.replace("{home}", str(tmp_path))) if not file.is_secret else tmp_path / "secrets"
            folder.mkdir(exist_ok=True)
            (folder / file.name).write_bytes(file.content or b"")
            if file.variable:
                environment[file.variable] = str(folder / file.name)
        told = re.findall(r"```python\n(.*?)```", (tmp_path / "datahub" / "README.md").read_text(), re.DOTALL)
        python = _with_library(tmp_path / "environment")
        out = [
            subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
            for code in [*told, *snippets()]
        ]
    assert out[0] == "['Kept elsewhere', 'Plankton survey', 'Shared results']\n"
    assert "North,12" in out[1]
    space = next(space for space in onezone.controls.spaces_of("") if space.id == SPACE)
    assert space.files["2025/total.txt"] == b"42 copepods\n"


def _with_library(folder: Path) -> str:
    """As ``pip install onedatarestfsspec`` in a session; that version is what the guide was tried with."""
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    python = str(folder / "bin" / "python")
    install = [uv, "pip", "install", "--quiet", "--python", python, "onedatarestfsspec==25.2.0"]
    subprocess.run(install, check=True)
    return python
