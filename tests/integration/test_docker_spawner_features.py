"""What sessions in containers are given beside their image, and what stays of them: with odd users, homes and hubs."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.containers.engine import ContainerEngine
from tests.containers.images import CLOSED_HOME
from tests.integration.test_docker_spawner import DockerHub, build, engine, image_of

__all__ = ["engine"]

pytestmark = [pytest.mark.needs("proxy", "engine"), pytest.mark.timeout(600), pytest.mark.one_hub_version]

# A login whose tokens live for a few seconds.
CONFIG = """
import itertools, time, types
from jupyterhub.auth import DummyAuthenticator
class Giving(DummyAuthenticator):
    numbers = itertools.count(1)
    async def session_token(self, user):
        return types.SimpleNamespace(value=f"token-{next(self.numbers)}", expires_at=time.time() + 6)
    async def end_session_token(self, user, value):
        with open("given-back", "a") as file:
            file.write(value + " ")
c.JupyterHub.authenticator_class = Giving
"""
SWEEPING = "c.ReplayMixin.replay_sweep_seconds = 1\nc.ReplayMixin.replay_sweep_grace = 0\n"

TOKEN = "/var/run/secrets/egi.eu/access_token"


@pytest.fixture(scope="module")
def hub(engine: ContainerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHub]:
    made = DockerHub(tmp_path_factory.mktemp("hub"), engine, CONFIG)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def no_server_stays(hub: DockerHub) -> Iterator[None]:
    yield
    hub.stop_server()
    hub.nothing_is_left()


def test_the_token_is_its_users_alone_whatever_the_number_and_is_renewed_and_given_back(
    hub: DockerHub, engine: ContainerEngine
) -> None:
    image = build(engine, "of-4321", "FROM NOTEBOOK\nUSER 4321:4322\nWORKDIR /\n")
    session = hub.launched(image, image_of(engine, "odd/of-4321"), features=["token"])

    def inside(*command: str, user: str = "4321", check: bool = True) -> str:
        return engine.docker("exec", "--user", user, session["Id"], *command, check=check).strip()

    assert f"REPLAY_ACCESS_TOKEN_FILE={TOKEN}" in session["Config"]["Env"]
    assert inside("stat", "-c", "%a %u", TOKEN) == "400 4321"
    first = inside("cat", TOKEN)
    assert first.startswith("token-")
    assert "token-" not in inside("cat", TOKEN, user="1000", check=False)
    assert "token-" not in str(session["Config"]["Env"])
    hub.until(lambda: inside("cat", TOKEN) != first, "it is renewed")
    assert inside("stat", "-c", "%a %u", TOKEN) == "400 4321"
    hub.stop_server()
    given_back = hub.folder / "given-back"
    hub.until(lambda: given_back.exists() and len(given_back.read_text().split()) >= 1, "it is given back")


def test_a_home_that_cannot_be_written_is_told_and_the_session_starts(hub: DockerHub, engine: ContainerEngine) -> None:
    image = build(engine, "closed-home", CLOSED_HOME)
    for _ in ("first", "known by then"):
        with ThreadPoolExecutor(1) as person:
            start = person.submit(hub.launch, image, image_of(engine, "odd/closed-home"))
            told = hub.progress(until="/srv/closed, cannot be written by its user")
            assert start.result().status_code == 201, start.result().text
        assert "what is changed is not saved" in told[-1]["message"]
        contents: dict[str, Any] = hub.inside("api/contents/").json()
        assert "analysis.ipynb" in [one["name"] for one in contents["content"]]
        hub.stop_server()


def test_what_a_hub_does_not_know_any_more_is_removed_and_another_hubs_sessions_stay(
    hub: DockerHub, engine: ContainerEngine, tmp_path: Path
) -> None:
    image = build(engine, "plain", "FROM NOTEBOOK\n")
    anothers = hub.launched(image)["Id"]
    crashing = DockerHub(tmp_path / "hub", engine, SWEEPING)
    try:
        crashing.start()
        assert crashing.launch(image, user="boris").status_code == 201, crashing.log[-4000:]
        (left,) = [session for session in hub.sessions() if session["Id"] != anothers]
        assert left["State"]["Running"]
        crashing.stop(signal.SIGKILL)
        (tmp_path / "hub" / "jupyterhub.sqlite").unlink()
        crashing.start()
        assert crashing.ask({"launch": "0" * 32}, "boris").status_code == 409, "somebody comes"
        crashing.until(lambda: [one["Id"] for one in hub.sessions()] == [anothers], "the session is removed")
        crashing.until(lambda: f"container {left['Name'][1:]} of launch" in crashing.log, "it is told")
    finally:
        crashing.close()
    assert hub.inside("api/status").status_code == 200
