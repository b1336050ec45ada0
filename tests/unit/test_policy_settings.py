"""From ``REPLAY_POLICIES`` to the hub's settings and the service's: the reference configuration, read as both read it."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from replay_auth import EGICheckinAuthenticator
from replay_build_service.assembly import UnusableSettings, make_policies
from replay_build_service.domain import Person
from replay_build_service.settings import ServiceSettings
from tests.requirements import ROOT

POLICIES = """
vos:
  vo.one:
    enrolment_url: https://vo.example.org/join
    memory: {limit: 8G}
    managers: ["vo.one:role=manager", "user:ada"]
  vo.two: {}
"""


@pytest.fixture
def configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The reference configuration with that text as its file of policies."""
    (tmp_path / "secret").write_text("secret")
    monkeypatch.setenv("REPLAY_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("REPLAY_OIDC_CLIENT_ID", "client")
    monkeypatch.setenv("REPLAY_OIDC_CLIENT_SECRET_FILE", str(tmp_path / "secret"))

    def load(policies: str | None, **more: str) -> Config:
        if policies is not None:
            file = tmp_path / "policies.yaml"
            file.write_text(dedent(policies).lstrip())
            monkeypatch.setenv("REPLAY_POLICIES", str(file))
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        return PyFileConfigLoader("jupyterhub_config.py", path=str(ROOT)).load_config()

    return load


def test_the_file_says_who_may_enter_who_manages_and_what_managers_reach(configuration: Any) -> None:
    config = configuration(POLICIES, REPLAY_VOS="vo.other=")
    authenticator = EGICheckinAuthenticator(config=config)
    assert authenticator.permitted_vos == {"vo.one": "https://vo.example.org/join", "vo.two": ""}
    assert authenticator.vo_managers == {"vo.one": ["vo.one:role=manager", "user:ada"]}
    (role,) = [one for one in config.JupyterHub.load_roles if "groups" in one]
    assert (role["groups"], role["scopes"]) == (["vo.one:managers"], ["access:services!service=replay"])
    scopes = {scope for one in config.JupyterHub.load_roles if "groups" in one for scope in one["scopes"]}
    assert not [scope for scope in scopes if "servers" in scope or "admin" in scope]
    assert "manage_roles" not in config.EGICheckinAuthenticator


def test_the_service_reads_the_same_file(configuration: Any) -> None:
    config = configuration(POLICIES)
    settings = ServiceSettings(config=Config(ServiceSettings=config.ReplayBuildService))
    policies = make_policies(settings)
    (policy,) = policies.permitted(Person("ada", frozenset({"vo.one"})))
    assert policy.resources.memory_limit == 8 * 1024**3
    assert policies.vos == ["vo.one", "vo.two"]


def test_without_a_file_all_vos_are_alike_as_before(configuration: Any) -> None:
    config = configuration(None, REPLAY_VOS="vo.one= vo.two=https://x.example.org", REPLAY_MEM_LIMIT="3G")
    assert not [one for one in config.JupyterHub.load_roles if "groups" in one]
    assert EGICheckinAuthenticator(config=config).vo_managers == {}
    policies = make_policies(ServiceSettings(config=Config(ServiceSettings=config.ReplayBuildService)))
    (one, two) = policies.permitted(Person("ada", frozenset({"vo.one", "vo.two"})))
    assert one.resources == two.resources
    assert (one.resources.memory_limit, one.limits.servers_per_repository) == (3 * 1024**3, 100)
    assert two.enrolment_url == "https://x.example.org"


@pytest.mark.parametrize(
    ("policies", "told"),
    [
        (
            "vos:\n  vo.one:\n    memory: {guarantee: 8G, limit: 4G}\n",
            r"policies\.yaml, line 3: “memory” guarantees more",
        ),
        ("vos:\n  vo.one: {}\n  vo.one: {}\n", r"policies\.yaml, line 3: “vo\.one” is here a second time"),
    ],
)
def test_a_contradiction_stops_hub_and_service_at_their_start_with_its_line(
    configuration: Any, policies: str, told: str
) -> None:
    with pytest.raises(SystemExit, match=told):
        configuration(policies)


@pytest.mark.parametrize(
    ("builder", "policy", "told"),
    [
        ("venv", "gpus: {count: 1}", "sessions are plain processes: “gpus” cannot be given"),
        ("venv", "node_selector: {a: b}", "there is one machine"),
        ("docker", "tolerations: [{operator: Exists}]", "there is one machine"),
        ("docker", "gpus: {count: 1, resource: amd.com/gpu}", "of the kind nvidia.com/gpu only"),
        ("docker", "gpus: {count: 1}", None),
        ("kubernetes", "{gpus: {count: 1, resource: amd.com/gpu}, node_selector: {a: b}}", None),
    ],
)
def test_what_no_session_of_this_builder_gets_is_refused_at_the_start(
    tmp_path: Path, builder: str, policy: str, told: str | None
) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text(f"vos:\n  vo.one:\n    {policy}\n")
    settings = ServiceSettings(policy_file=str(file), builder=builder)
    if told is None:
        assert make_policies(settings).vos == ["vo.one"]
        return
    with pytest.raises(UnusableSettings, match=told):
        make_policies(settings)
