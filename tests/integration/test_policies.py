"""Policies on a real hub: from the file to who may launch what, what their servers get, and when these end."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from demo.people import ACCESS_MEMBER, ADA, BORIS, CHIARA, DMITRI, Person
from tests.site import ApiClient, Repo, Site, Sites

pytestmark = pytest.mark.needs("proxy", "git-server")

POLICIES = """
vos:
  vo.notebooks.egi.eu:
    memory: {guarantee: 1G, limit: 3G}
    servers_per_repository: 2
    repositories:
      denied: ["127.0.0.1*/denied*"]
    managers: ["vo.notebooks.egi.eu:role=manager"]
  vo.access.egi.eu:
    memory: {limit: 5G}
    maximum_age: 4s
    servers_per_repository: 50
    terms: {version: 1.10, text: Be kind.}
"""


@pytest.fixture(scope="module")
def governed(sites: Sites, tmp_path_factory: pytest.TempPathFactory) -> Site:
    file = tmp_path_factory.mktemp("policies") / "policies.yaml"
    file.write_text(POLICIES)
    # The hub waits for a start's outcome, and answers with it.
    waiting = 'c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 30}'
    return sites.start(settings={"POLICIES": str(file)}, extra_config=waiting)


@pytest.fixture(scope="module")
def repo(governed: Site) -> Repo:
    return governed.repository("plain", {"hello.txt": "hello\n"})


@pytest.fixture(autouse=True)
def _no_servers_left(governed: Site) -> Iterator[None]:
    yield
    for person in (ADA, CHIARA, DMITRI):
        if governed.admin("GET", f"/users/{person.voperson_id}").status_code == 200:
            governed.stop_server(person)


def server_process(site: Site, launch: str) -> psutil.Process:
    """The session's server."""
    found = []
    for process in site.processes():
        try:
            environment = process.environ()
        except psutil.NoSuchProcess:
            continue
        if environment.get("REPLAY_LAUNCH") == launch and "JUPYTERHUB_API_TOKEN" in environment:
            found.append(process)
    return min(found, key=lambda process: process.create_time())


def test_a_server_gets_what_the_policy_of_its_vo_says(governed: Site, repo: Repo) -> None:
    launch = governed.client(ADA).launch_and_wait(repo)
    environment = server_process(governed, launch["id"]).environ()
    assert (environment["MEM_GUARANTEE"], environment["MEM_LIMIT"]) == (str(1 << 30), str(3 << 30))
    assert environment["REPLAY_VO"] == "vo.notebooks.egi.eu"
    kept = governed.rows("SELECT vo, memory_reserved, gpus_reserved FROM launches WHERE id = ?", launch["id"])
    assert kept == [("vo.notebooks.egi.eu", 1 << 30, 0)]


def test_what_the_policy_denies_is_refused_with_who_can_change_it(governed: Site) -> None:
    denied = governed.repository("denied", {"hello.txt": "hello\n"})
    ada = governed.client(ADA)
    for spec in (denied.spec, denied.spec.replace(".git", ""), denied.spec.replace("denied", "denied%2F")):
        answer = ada.launch(spec)
        if answer.status_code == 404:
            continue  # that spelling is not even a repository of this server's
        assert answer.status_code == 403, answer.text
        assert "The policy of vo.notebooks.egi.eu denies 127.0.0.1:" in answer.json()["message"]
        assert "The administrators can change that." in answer.json()["message"]
    spawn = governed.ask_for_server(ADA, {"repo": denied.spec})
    assert spawn.status_code == 403, spawn.text
    assert "denies" in spawn.json()["message"]


def test_terms_are_agreed_to_once_by_naming_their_version(governed: Site, repo: Repo) -> None:
    chiara = governed.client(CHIARA)
    for terms in (None, "1.1"):
        asked = chiara.launch(repo, vo="vo.access.egi.eu", **({"terms": terms} if terms else {}))
        assert asked.status_code == 403
        assert asked.json()["terms"] == {"vo": "vo.access.egi.eu", "version": "1.10", "text": "Be kind."}
        assert "“terms”: “1.10”" in asked.json()["message"]
    spawn = governed.ask_for_server(CHIARA, {"repo": repo.spec, "vo": "vo.access.egi.eu"})
    assert spawn.status_code == 403, "a spawn agrees to nothing"
    assert chiara.launch(repo, vo="vo.access.egi.eu", terms="1.10").status_code == 201
    ((version, agreed_at, created_at),) = governed.rows(
        "SELECT terms_agreed.version, agreed_at, created_at FROM terms_agreed JOIN launches "
        "ON launches.user = terms_agreed.user AND launches.vo = terms_agreed.vo"
    )
    assert version == "1.10"
    assert agreed_at <= created_at


def test_a_session_ends_when_it_is_as_old_as_its_vo_lets_it_be(governed: Site, repo: Repo) -> None:
    chiara = governed.client(CHIARA)
    launch = chiara.launch_and_wait(repo, vo="vo.access.egi.eu", terms="1.10")
    assert launch["ends_by"] is not None
    process = server_process(governed, launch["id"])
    deadline = time.monotonic() + 90
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "nobody ended the session"
        time.sleep(0.2)
    while (ended := chiara.get(launch["id"]))["state"] != "ended":
        assert time.monotonic() < deadline, "the record does not end"
        time.sleep(0.2)
    assert ended["failure"] == (
        "The session was stopped: vo.access.egi.eu lets a session run for 4 seconds at most. You can launch the same again."
    )
    assert ended["failure"] in chiara.http.get(f"launches/{launch['id']}").text
    assert governed.server(CHIARA) is None


def test_who_leaves_the_vo_of_a_session_loses_it_although_another_vo_lets_them_in(
    new_site: Callable[..., Site],
) -> None:
    """Nobody clicks: the hub asks Check-in within its bound, and the service asks the hub once a minute."""
    bound, between_looks = 8.0, 60.0
    site = new_site(settings={"MEMBERSHIP_SECONDS": str(bound)})
    launch = site.client(CHIARA).launch_and_wait(
        site.repository("left", {"hello.txt": "x\n"}), vo="vo.notebooks.egi.eu"
    )
    process = server_process(site, launch["id"])
    site.checkin.set_entitlements(CHIARA, ACCESS_MEMBER)
    process.wait(bound + between_looks + 30)
    until = time.monotonic() + 30
    while (told := site.client(CHIARA).get(launch["id"]))["state"] != "ended":
        assert time.monotonic() < until, told
        time.sleep(0.2)
    assert "it ran for vo.notebooks.egi.eu, and you are not a member of that any more" in told["failure"]


def test_a_repository_has_so_many_servers_at_once_and_the_refusal_says_how_many(governed: Site, repo: Repo) -> None:
    clients = [governed.client(person) for person in (ADA, CHIARA, DMITRI)]

    def launch(client: ApiClient) -> tuple[int, dict[str, str]]:
        answer = client.launch(repo, vo="vo.notebooks.egi.eu")
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(3) as at_once:
        answers = list(at_once.map(launch, clients))
    assert sorted(status for status, _ in answers) == [201, 201, 409]
    (refused,) = [told["message"] for status, told in answers if status == 409]
    assert (
        "has 2 servers, on their way or running, and vo.notebooks.egi.eu allows at most 2 of one repository" in refused
    )
    assert "Try again when somebody has stopped theirs" in refused

    # One of the two ends behind the service's back, as by a culler: there is room again.
    winners = [client for client, (status, _) in zip(clients, answers, strict=True) if status == 201]
    (loser,) = [client for client, (status, _) in zip(clients, answers, strict=True) if status == 409]
    for client in winners:
        *_, (_, last) = client.events(
            next(told["id"] for one, (_, told) in zip(clients, answers, strict=True) if one is client)
        )
        assert last["phase"] == "ready"
    governed.stop_server(winners[0].person)
    deadline = time.monotonic() + 30
    while (answer := loser.launch(repo, vo="vo.notebooks.egi.eu")).status_code == 409:
        assert time.monotonic() < deadline, answer.text
        time.sleep(1)  # of what the hub said, each question is answered for some seconds
    assert answer.status_code == 201


def test_who_is_in_no_vo_with_a_policy_launches_nothing(governed: Site, repo: Repo) -> None:
    governed.client(ADA)
    answer = governed.admin("POST", f"/users/{BORIS.voperson_id}")
    assert answer.status_code in {201, 409}
    spawn = governed.ask_for_server(BORIS, {"repo": repo.spec})
    assert spawn.status_code == 403, spawn.text
    governed.admin("DELETE", f"/users/{BORIS.voperson_id}")


# the command


def policy(site: Site, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """``replay-build-service policy …`` as the administrator of this site types it."""
    inherited = site.service_process().environ()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REPLAY_", "JUPYTERHUB_"))}
    environment |= {name: value for name, value in inherited.items() if name.startswith("REPLAY_")}
    return subprocess.run(
        [sys.executable, "-m", "replay_build_service.app", "policy", *arguments],
        cwd=site.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def explain(site: Site, person: Person, repo: str, *more: str) -> "subprocess.CompletedProcess[str]":
    config = ["--config", str(Path(__file__).parents[2] / "jupyterhub_config.py")]
    return policy(site, "explain", "--user", person.voperson_id, "--repo", repo, *more, *config)


def test_an_explanation_asks_the_hub_for_the_groups_and_names_the_rule(governed: Site) -> None:
    governed.client(CHIARA)
    governed.client(ADA)
    denied = governed.repository("denied", {"hello.txt": "hello\n"})
    repo = governed.repository("explained", {"hello.txt": "hello\n"})
    allowed = explain(governed, ADA, repo.spec)
    assert allowed.returncode == 0, allowed.stderr
    assert (
        f"{repo.spec} may be launched by {ADA.voperson_id} for vo.notebooks.egi.eu (in vo.notebooks.egi.eu).\n"
        in allowed.stdout
    )
    assert (
        "  passes       limits: Within the limits of vo.notebooks.egi.eu: servers of a repository: 0 of 2."
        in allowed.stdout
    )
    refused = explain(governed, ADA, f"{governed.url}/v2/{denied.spec}?labpath=hello.txt")
    assert "is refused by" in refused.stdout
    assert "Decides: repositories that the policy denies.\n" in refused.stdout
    assert "  not reached  limits\n" in refused.stdout + "\n"
    several = explain(governed, CHIARA, repo.spec)
    assert "Decides: membership.\n" in several.stdout
    assert "You are in several virtual organisations." in several.stdout
    named = explain(governed, CHIARA, repo.spec, "--vo", "vo.notebooks.egi.eu")
    assert "may be launched" in named.stdout


def test_groups_can_be_named_and_what_is_not_known_is_told(governed: Site, repo: Repo) -> None:
    nobody = explain(governed, BORIS, repo.spec, "--groups", "")
    assert "(in no group)" in nobody.stdout
    assert "You are in no virtual organisation that may launch here." in nobody.stdout
    unknown = explain(governed, BORIS, repo.spec)
    assert unknown.returncode == 1
    assert "Name them with --groups A,B." in unknown.stderr
    bad = explain(governed, ADA, "no/link", "--groups", "vo.notebooks.egi.eu")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "There is no provider “no” here." in bad.stderr
    for done in (nobody, unknown, bad):
        assert "Traceback" not in done.stderr
