"""What docs/admin.md promises of removing Replay: the hub is what it was, also after repositories ran on it."""

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.git_server import GitServer
from tests.integration.test_existing_hub import Hub
from tests.site import make_repository

pytestmark = pytest.mark.needs("proxy", "git-server")


def test_a_hub_from_which_replay_is_taken_again_starts_servers_as_it_did(tmp_path: Path) -> None:
    # A machine behind a proxy with certificates of its own.
    certificates = {name: os.environ[name] for name in ("SSL_CERT_FILE",) if name in os.environ}
    (tmp_path / "git").mkdir()
    with GitServer(tmp_path / "git") as git:
        repo = make_repository(git, tmp_path / "work", "plain", {"hello.txt": "hello\n"})
        extra = f"""
c.JupyterHub.load_groups = {{"researchers": {{"users": ["maria"]}}}}
c.ReplayBuildService.exempt_origins = ["{git.url.rstrip("/")}"]
c.ReplayBuildService.build_environment = {certificates!r}
"""
        hub = Hub(tmp_path / "hub", "dict", with_replay=False, extra=extra)
        try:
            hub.start()
            before = [an_ordinary_start(hub, options) for options in ('{"profile": "gpu"}', None)]
            hub.close()

            hub.with_replay = True
            hub.start()
            launch = launch_and_stop(hub, repo.spec)
            hub.close()

            hub.with_replay = False
            hub.start()
            # What is stored of the launch is used by a start that brings no options, and means nothing.
            after_launch = an_ordinary_start(hub, None)
            assert after_launch.pop("user_options") == {"launch": launch}
            plain = after_launch["environment"]
            assert plain.pop("HOOK") == f"maria [('launch', '{launch}')]"
            assert not [name for name in plain if name.startswith("REPLAY_")]
            assert (plain["PROFILE"], after_launch["cwd"]) == ("small", "FOLDER/homes/maria")
            assert [an_ordinary_start(hub, options) for options in ('{"profile": "gpu"}', None)] == before
            roles = httpx.get(f"{hub.url}/hub/api/services", headers={"Authorization": f"token {hub.token}"}).json()
            assert "replay" not in roles
            assert httpx.get(f"{hub.url}/v2/{repo.spec}", follow_redirects=True).status_code == 404
        finally:
            hub.close()


def an_ordinary_start(hub: Hub, options: str | None) -> dict[str, Any]:
    seen = hub.outcome(hub.api("POST", "/server", options))
    assert seen["status"] == 201
    hub.stop_server()
    return seen


def launch_and_stop(hub: Hub, spec: str) -> str:
    """Maria launches a repository, works in it, and stops it; the launch's number."""
    token = hub.api("POST", "/tokens", '{"note": "test"}').json()["token"]
    with httpx.Client(headers={"Authorization": f"token {token}"}, timeout=240, base_url=hub.url) as maria:
        made = maria.post("/services/replay/api/launches", json={"repo": spec})
        assert made.status_code == 201, made.text
        with maria.stream("GET", made.json()["events_url"]) as events:
            last = [line for line in events.iter_lines() if line.startswith("data: ")][-1]
        assert '"ready"' in last, last
        assert maria.get("/user/maria/api/contents/hello.txt").json()["content"] == "hello\n"
    hub.stop_server()
    return made.json()["id"]
