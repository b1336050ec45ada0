"""What a session in a pod is given beside its image: its token, fresh for as long as it runs, and what made it."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from demo.people import ADA
from tests.cluster.kernels import printed_by_a_cell
from tests.cluster.site import ClusterSites
from tests.cluster.test_whole_way import until
from tests.site import Site

pytestmark = pytest.mark.needs("cluster", "engine", "registry", "git-server", "proxy")

LIFE = 40
"""Seconds of an access token."""

READ = """
import os, stat
path = os.environ["REPLAY_ACCESS_TOKEN_FILE"]
found = os.stat(path)
token = open(path).read()
print(path, oct(stat.S_IMODE(found.st_mode)), found.st_gid in os.getgroups(), os.getuid(), token)
assert token not in str(dict(os.environ))
"""


def userinfo(site: Site, token: str) -> httpx.Response:
    address = f"{site.checkin.issuer}/protocol/openid-connect/userinfo"
    return httpx.get(address, headers={"Authorization": f"Bearer {token}"})


def secrets_of(sites: ClusterSites) -> list[dict[str, Any]]:
    """The Secrets of sessions."""
    found: list[dict[str, Any]] = json.loads(
        sites.cluster.kubectl("get", "secrets", "-n", sites.users, "-l", "replay.egi.eu/launch", "-o", "json")
    )["items"]
    return found


def test_a_token_is_read_in_the_kernel_before_and_after_it_expired(
    start: Callable[..., Site], cluster_sites: ClusterSites, notebook_image: str
) -> None:
    site = start(settings={"FEATURES": "token"})
    settings = site.checkin.controls.settings
    settings.exchanges_tokens, settings.access_token_seconds = True, LIFE
    repo = site.repository("token", {"Dockerfile": f"FROM {notebook_image}\n"})
    ada = site.client(ADA)
    launch = ada.launch_and_wait(repo, features=["token"])
    pod = cluster_sites.session_pod(site)

    path, mode, is_in_group, user, first = printed_by_a_cell(ada, READ).split()
    assert path == "/var/run/secrets/egi.eu/access_token"
    assert (mode, is_in_group, user) == ("0o440", "True", "1000")
    assert userinfo(site, first).json()["voperson_id"] == ADA.voperson_id
    (secret,) = secrets_of(cluster_sites)
    (owner,) = secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Pod", pod["metadata"]["uid"])

    until(lambda: userinfo(site, first).status_code == 401, "the first token has expired", 3 * LIFE)
    *_, second = printed_by_a_cell(ada, READ).split()
    assert second != first
    assert userinfo(site, second).json()["voperson_id"] == ADA.voperson_id

    # A renewed one is in the pod at once, not a minute later.
    before = secrets_of(cluster_sites)[0]["metadata"]["resourceVersion"]
    until(lambda: secrets_of(cluster_sites)[0]["metadata"]["resourceVersion"] != before, "it was renewed", LIFE)
    renewed_at = time.monotonic()
    until(lambda: printed_by_a_cell(ada, READ).split()[-1] != second, "the pod has it", 20)
    assert time.monotonic() - renewed_at < 40, "a node looks at its Secrets by itself each minute or so"

    record = json.loads(printed_by_a_cell(ada, "print(open('/home/jovyan/.replay/launch.json').read())"))
    assert (record["launch"], record["commit"], record["image"]) == (launch["id"], repo.commit, launch["image"])

    settings.access_token_seconds = 3600
    *_, last = printed_by_a_cell(ada, READ).split()
    site.stop_server(ADA)
    until(lambda: userinfo(site, last).status_code == 401, "what the session had was given back", LIFE)
    until(lambda: secrets_of(cluster_sites) == [], "its Secret went with it")
    cluster_sites.nothing_is_left()
    # The login lives: another session starts, with a token of its own.
    ada.launch_and_wait(repo, features=["token"])
    *_, another = printed_by_a_cell(ada, READ).split()
    assert userinfo(site, another).status_code == 200
    site.stop_server(ADA)
