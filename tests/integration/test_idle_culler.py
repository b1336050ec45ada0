"""A session that nobody uses ends by itself, and one that is used does not."""

import time
from pathlib import Path

import httpx
import pytest
from traitlets.config.loader import PyFileConfigLoader

from demo.people import ADA
from tests.login_fixtures import Visitor
from tests.requirements import ROOT
from tests.site import Sites

IDLE_SECONDS = 6


def test_a_session_ends_after_an_hour_without_activity_where_nothing_else_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLAY_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("REPLAY_IDLE_SECONDS", raising=False)
    monkeypatch.setenv("REPLAY_OIDC_CLIENT_ID", "none")
    monkeypatch.setenv("REPLAY_OIDC_CLIENT_SECRET_FILE", str(tmp_path / "secret"))
    (tmp_path / "secret").write_text("none")
    config = PyFileConfigLoader("jupyterhub_config.py", path=str(ROOT)).load_config()
    (culler,) = [service for service in config.JupyterHub.services if service["name"] == "idle-culler"]
    assert "--timeout=3600" in culler["command"]
    assert "--cull-every=300" in culler["command"]
    assert not [word for word in culler["command"] if "max-age" in word], "a session that is used has no limit"


@pytest.mark.needs("proxy", "git-server")
def test_a_session_that_is_used_goes_on_and_one_that_is_not_ends(sites: Sites) -> None:
    # The hub asks its proxy for what was used each five minutes; here it must know sooner.
    site = sites.start(
        settings={"IDLE_SECONDS": str(IDLE_SECONDS)}, extra_config="c.JupyterHub.last_activity_interval = 1"
    )
    ada = site.client(ADA)
    launch = ada.launch_and_wait(site.repository("plain", {"README.md": "hello\n"}))["id"]
    server = site.server(ADA)
    assert server is not None

    used_until = time.monotonic() + 1.5 * IDLE_SECONDS
    while time.monotonic() < used_until:
        used = httpx.get(
            f"{site.url}{server['url']}api/contents/README.md", headers={"Authorization": f"token {ada.token}"}
        )
        assert used.status_code == 200, "the session was ended while it was used"
        time.sleep(0.3)
    assert site.session_folders() == [launch]

    deadline = time.monotonic() + 10 * IDLE_SECONDS
    while site.server(ADA) is not None:
        assert time.monotonic() < deadline, "nobody ended the session"
        time.sleep(0.1)
    assert site.session_folders() == []
    with Visitor(site) as visitor:  # type: ignore[arg-type] # of a hub it asks only the url
        visitor.log_in(ADA)
        visitor.open("/services/replay/")
    assert ada.get(launch)["state"] == "ended"
