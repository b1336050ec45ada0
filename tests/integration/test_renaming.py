"""``replay-auth rename-users`` on a real hub that was keyed on ``preferred_username``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo.checkin import CheckinStandIn
from demo.people import ADA, CHIARA, DMITRI, FARAH
from tests.login_fixtures import ROOT, Hub, Visitor, provider_and_hub

pytestmark = pytest.mark.needs("proxy")

PERMITTED = {"vo.notebooks.egi.eu": "", "vo.access.egi.eu": ""}
KEYED_ON_PREFERRED_USERNAME = """
c.EGICheckinAuthenticator.username_claim = "preferred_username"
c.EGICheckinAuthenticator.admin_users = {"farah"}
c.JupyterHub.load_roles.append({"name": "tokens", "scopes": ["tokens"], "services": ["tester"]})
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[CheckinStandIn, Hub]]:
    with provider_and_hub(tmp_path / "hub") as (checkin, hub):
        checkin.start()
        hub.start(PERMITTED, KEYED_ON_PREFERRED_USERNAME)
        yield checkin, hub


def rename(hub: Hub, *options: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTERHUB_API_TOKEN": token or hub.api_token}
    command = [sys.executable, "-m", "replay_auth.renaming", "rename-users", "--hub", f"{hub.url}/hub/api", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def names(hub: Hub) -> set[str]:
    return {user["name"] for user in hub.api("GET", "/users").json()}


def test_users_are_renamed_by_what_they_released_after_a_look_at_what_would_happen(
    running: tuple[CheckinStandIn, Hub], tmp_path: Path
) -> None:
    _, hub = running
    with Visitor(hub) as dmitri:
        for person in (ADA, CHIARA, FARAH):
            with Visitor(hub) as visitor:
                visitor.log_in(person)
        dmitri.log_in(DMITRI)
        dmitri.start_server()
    made = hub.api("POST", f"/users/{ADA.preferred_username}/tokens").json()["token"]
    # Somebody made the account that Chiara's would become; and one that nobody ever logged in to.
    for name in (CHIARA.voperson_id, "robot"):
        assert hub.api("POST", f"/users/{name}").status_code == 201
    before = names(hub)
    assert {"researcher", "chiara", "dmitri", "farah"} <= before

    looked = rename(hub)
    assert looked.returncode == 1, looked.stderr
    assert names(hub) == before
    assert "Nothing was changed. Run it again with --apply" in looked.stdout
    assert "Each account goes to whoever logged in last under its name" in looked.stdout
    for line in (
        f"rename      researcher → {ADA.voperson_id}",
        f"refused     chiara → {CHIARA.voperson_id}: a user of that name exists",
        f"skipped     dmitri → {DMITRI.voperson_id}: a server is running; stop it and run this again",
        f"refused     farah → {FARAH.voperson_id}: is an admin or has roles of their own",
        "skipped     robot: the hub has no record of a voperson_id; name it in a CSV file",
    ):
        assert line in looked.stdout

    done = rename(hub, "--apply")
    assert done.returncode == 1, done.stderr
    assert f"renamed     researcher → {ADA.voperson_id}" in done.stdout
    left = {"chiara", CHIARA.voperson_id, "dmitri", "robot", "farah"}
    assert names(hub) == left | {ADA.voperson_id}
    assert httpx.get(f"{hub.url}/hub/api/user", headers={"Authorization": f"token {made}"}).json()["name"] == (
        ADA.voperson_id
    ), "the account is the same one: its tokens still work"

    # What was refused is decided, what ran is stopped, and the rest is named in a file.
    assert hub.api("DELETE", f"/users/{CHIARA.voperson_id}").status_code == 204
    assert hub.api("DELETE", "/users/dmitri/server").status_code in {202, 204}
    file = tmp_path / "names.csv"
    file.write_text("name,voperson_id\nrobot,ROBOT@egi.eu\nnobody,nobody@egi.eu\n")
    by_file = rename(hub, "--csv", str(file), "--apply")
    assert by_file.returncode == 0, by_file.stdout
    assert "There is no user nobody." in by_file.stderr
    assert rename(hub, "--apply").returncode == 1, "the robot has no record"
    wanted = {person.voperson_id for person in (ADA, CHIARA, DMITRI)} | {"robot@egi.eu", "farah"}
    assert names(hub) == wanted

    # And the hub that is keyed on voperson_id finds everybody.
    created = hub.user(ADA).json()["created"]
    hub.stop()
    hub.start(PERMITTED)
    with Visitor(hub) as visitor:
        assert visitor.log_in(ADA).url.path == "/hub/home"
    assert names(hub) == wanted
    assert hub.user(ADA).json()["created"] == created


def test_an_account_under_another_name_than_its_last_login_is_nobodys_to_give(
    running: tuple[CheckinStandIn, Hub],
) -> None:
    _, hub = running
    with Visitor(hub) as visitor:
        visitor.log_in(ADA)
    # An administrator renamed it.
    renamed = httpx.patch(
        f"{hub.url}/hub/api/users/researcher",
        json={"name": "shared"},
        headers={"Authorization": f"token {hub.api_token}"},
    )
    assert renamed.status_code == 200
    looked = rename(hub, "--apply")
    assert (looked.returncode, names(hub)) == (1, {"shared", "farah"})
    assert "refused     shared" in looked.stdout
    assert "is not the preferred_username of whoever logged in last" in looked.stdout


def test_a_token_that_may_not_do_it_is_told_what_it_needs(running: tuple[CheckinStandIn, Hub]) -> None:
    _, hub = running
    with Visitor(hub) as visitor:
        visitor.log_in(ADA)
    for token in ("invented", _token(hub, ["self"])):
        refused = rename(hub, token=token)
        assert refused.returncode == 2
        assert "It needs the scopes admin:users, read:servers" in refused.stderr
        assert token not in refused.stderr


def _token(hub: Hub, scopes: list[str]) -> str:
    answer = httpx.post(
        f"{hub.url}/hub/api/users/{ADA.preferred_username}/tokens",
        json={"scopes": scopes},
        headers={"Authorization": f"token {hub.api_token}"},
    )
    return answer.json()["token"]
