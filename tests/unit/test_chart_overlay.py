"""The overlay for Zero to JupyterHub, and the reference configuration as that hub and the chart's service load it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import yaml
from jupyterhub.app import JupyterHub
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from replay_auth import EGICheckinAuthenticator
from replay_build_service.settings import ServiceSettings
from replay_spawner import hub_templates
from replay_spawner.handlers import LinkHandler
from replay_spawner.kube import ReplayKubeSpawner
from tests.requirements import ROOT
from tests.unit.chart_rendering import CHART, EVERYTHING, LEAST, environment, helm, one, pods, render

OVERLAY: dict[str, Any] = yaml.safe_load((CHART / "values-z2jh.yaml").read_text())
IN_THE_IMAGE = "/etc/replay/jupyterhub_config.py"

# What the hub of Zero to JupyterHub does before it runs hub.extraConfig, each text in the order of its name: with another
# get_config than traitlets' own, and with an admin's own templates, handlers and routes.
ZERO_TO_JUPYTERHUB = """
def get_config(key, default=None):
    raise AssertionError("this one is Zero to JupyterHub's own")

c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.JupyterHub.hub_bind_url = "http://:8081"
c.JupyterHub.db_url = "sqlite:///jupyterhub.sqlite"
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0}}
c.JupyterHub.template_paths = ["/own/templates"]
c.JupyterHub.services = [{{"name": name, "api_token": "x" * 64, **service}} for name, service in {services}.items()]
c.JupyterHub.load_roles = [{{"name": name, **role}} for name, role in {roles}.items()]
c.CryptKeeper.keys = ["0" * 64]
c.KubeSpawner.image = "the-admins:1"
c.Spawner.default_url = "/tree"
for name, text in sorted({texts}.items()):
    exec(text)
"""
THE_ADMINS = """
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.extra_handlers = [("/own", dict)]
c.Proxy.extra_routes = {"/own/": "http://own"}
"""


@pytest.fixture
def hub_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads what the hub's pod would, with more of its environment."""

    def load(**more: str) -> Config:
        for name, value in {**OVERLAY["hub"]["extraEnv"], **more}.items():
            monkeypatch.setenv(name, value)
        texts = {"00-admins": THE_ADMINS, **OVERLAY["hub"]["extraConfig"]}
        texts = {name: text.replace(IN_THE_IMAGE, str(ROOT / "jupyterhub_config.py")) for name, text in texts.items()}
        file = tmp_path / "jupyterhub_config.py"
        file.write_text(
            ZERO_TO_JUPYTERHUB.format(
                services=OVERLAY["hub"]["services"], roles=OVERLAY["hub"]["loadRoles"], texts=texts
            )
        )
        monkeypatch.chdir(tmp_path)
        return PyFileConfigLoader(file.name, path=str(tmp_path)).load_config()

    return load


def test_it_is_of_the_form_that_zero_to_jupyterhub_takes() -> None:
    schema = json.loads((Path(__file__).parent / "data" / "zero_to_jupyterhub_values.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(OVERLAY)


@pytest.mark.live
def test_zero_to_jupyterhub_itself_takes_it() -> None:
    done = helm(
        "template", "hub", "jupyterhub", "--repo=https://hub.jupyter.org/helm-chart/", "--version=4.4.0",
        "--namespace=jupyter", "--values=-", values=OVERLAY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    assert "hub.services.replay.apiToken" in one(documents, "Secret", "hub")["data"]
    for name, component in (("hub", "hub"), ("proxy", "proxy")):
        labels = one(documents, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
        assert {"app": "jupyterhub", "component": component}.items() <= labels.items()
    session = one(documents, "NetworkPolicy", "singleuser")
    assert session["spec"]["podSelector"]["matchLabels"]["component"] == "singleuser-server"


def test_replay_is_added_and_what_is_the_admins_stays(hub_configuration: Any, tmp_path: Path) -> None:
    config = hub_configuration()
    hub = JupyterHub(config=config)
    assert hub.spawner_class is ReplayKubeSpawner
    assert hub.authenticator_class.__name__ == "DummyAuthenticator"
    assert hub.template_paths == [hub_templates(), "/own/templates"]
    own, (path, handler, arguments), *_ = hub.extra_handlers
    assert own[0] == "/own"
    assert (path, handler) == (r"/v2/(.+)", LinkHandler)
    assert arguments["service_url"] == "http://replay:10101/services/replay/"
    assert arguments["token_file"] == OVERLAY["hub"]["extraEnv"]["REPLAY_TOKEN_FILE"]
    assert config.Proxy.extra_routes == {
        "/own/": "http://own",
        "/badge_logo.svg/": "http://replay:10101",
        "/badge.svg/": "http://replay:10101",
    }
    assert config.ReplayMixin.replay_service_url == "http://replay:10101/services/replay/"
    assert config.ReplayMixin.replay_token_file == arguments["token_file"]
    # Which are the chart's own business.
    assert (config.JupyterHub.hub_bind_url, config.JupyterHub.db_url) == ("http://:8081", "sqlite:///jupyterhub.sqlite")
    assert [service["name"] for service in config.JupyterHub.services] == ["replay", "idle-culler"]
    assert {role["name"] for role in config.JupyterHub.load_roles} == {"user", "replay", "idle-culler"}
    assert config.CryptKeeper["keys"] == ["0" * 64]
    assert config.KubeSpawner.image == "the-admins:1"
    assert config.Spawner.default_url == "/tree"
    for name in ("bind_url", "cookie_secret_file", "default_url", "cleanup_servers"):
        assert name not in config.JupyterHub, name
    assert sorted(file.name for file in tmp_path.iterdir()) == ["jupyterhub_config.py"]


def test_people_log_in_at_check_in_where_a_client_is_named(hub_configuration: Any, tmp_path: Path) -> None:
    secret = tmp_path / "client_secret"
    secret.write_text("not so secret\n")
    config = hub_configuration(
        REPLAY_OIDC_CLIENT_ID="client",
        REPLAY_OIDC_CLIENT_SECRET_FILE=str(secret),
        REPLAY_URL="https://hub.example.org",
        REPLAY_VOS="vo.example.org=https://enrol.example.org",
    )
    assert JupyterHub(config=config).authenticator_class is EGICheckinAuthenticator
    assert config.EGICheckinAuthenticator.client_secret == "not so secret"
    assert config.EGICheckinAuthenticator.oauth_callback_url == "https://hub.example.org/hub/oauth_callback"
    assert config.EGICheckinAuthenticator.permitted_vos == {"vo.example.org": "https://enrol.example.org"}
    assert config.CryptKeeper["keys"] == ["0" * 64]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"REPLAY_OIDC_CLIENT_ID": "client"}, "REPLAY_OIDC_CLIENT_SECRET_FILE"),
        ({"REPLAY_OIDC_CLIENT_ID": "client", "REPLAY_OIDC_CLIENT_SECRET_FILE": "/none"}, "REPLAY_URL"),
        ({"REPLAY_HUB": "elsewhere"}, "REPLAY_HUB is zero-to-jupyterhub"),
    ],
)
def test_what_is_missing_is_named(hub_configuration: Any, more: Mapping[str, str], told: str) -> None:
    with pytest.raises(SystemExit, match=told):
        hub_configuration(**more)


def test_the_services_roles_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    monkeypatch.setenv("REPLAY_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("REPLAY_OIDC_CLIENT_ID", "client")
    monkeypatch.setenv("REPLAY_OIDC_CLIENT_SECRET_FILE", str(secret))
    reference = PyFileConfigLoader("jupyterhub_config.py", path=str(ROOT)).load_config()
    known = {role["name"]: role for role in reference.JupyterHub.load_roles}
    for name, role in OVERLAY["hub"]["loadRoles"].items():
        assert {"name": name, **role} == known[name]
    (service, _) = reference.JupyterHub.services
    for name in ("oauth_no_confirm", "oauth_client_allowed_scopes"):
        assert OVERLAY["hub"]["services"]["replay"][name] == service[name]


def test_hub_and_chart_mean_the_same_service() -> None:
    documents = render()
    service = one(documents, "Service", "replay")
    assert OVERLAY["hub"]["services"]["replay"]["url"] == f"http://replay:{service['spec']['ports'][0]['port']}"
    assert OVERLAY["hub"]["extraEnv"]["REPLAY_SERVICE_URL"] == OVERLAY["hub"]["services"]["replay"]["url"]
    (volume,) = OVERLAY["hub"]["extraVolumes"]
    secret = one(documents, "Secret", volume["secret"]["secretName"])
    (item,) = volume["secret"]["items"]
    assert item["key"] in secret["data"]
    (mount,) = OVERLAY["hub"]["extraVolumeMounts"]
    assert OVERLAY["hub"]["extraEnv"]["REPLAY_TOKEN_FILE"] == f"{mount['mountPath']}/{item['path']}"
    assert volume["secret"]["optional"] is True  # a hub starts without Replay
    pod = one(documents, "Deployment", "replay")["spec"]["template"]["metadata"]["labels"]
    for who in (OVERLAY["hub"], OVERLAY["proxy"]["chp"]):
        (rule,) = who["networkPolicy"]["egress"]
        assert rule["to"][0]["podSelector"]["matchLabels"].items() <= pod.items()
        assert rule["ports"] == [{"port": 10101, "protocol": "TCP"}]


def test_zero_to_jupyterhubs_own_policy_opens_nothing_that_the_charts_leaves_closed() -> None:
    rules = OVERLAY["singleuser"]["networkPolicy"]["egressAllowRules"]
    text = json.loads((ROOT / "tests" / "unit" / "data" / "zero_to_jupyterhub_values.json").read_text())
    (known,) = found(text, "egressAllowRules")
    assert "privateIPs" in known["properties"]
    # Names are resolved there, which ours lets sessions ask too.
    assert rules == dict.fromkeys(known["properties"].keys() - {"dnsPortsKubeSystemNamespace"}, False)


def found(tree: object, name: str) -> Iterator[Any]:
    """Every value of this name in a JSON document."""
    if isinstance(tree, dict):
        for key, value in cast("dict[str, object]", tree).items():
            if key == name:
                yield value
            yield from found(value, name)


def test_managers_reach_the_service_of_a_hub_that_has_roles_of_its_own(hub_configuration: Any, tmp_path: Path) -> None:
    policies = tmp_path / "policies.yaml"
    policies.write_text("vos: {vo.one: {managers: [user:ada]}}")
    config = hub_configuration(REPLAY_POLICIES=str(policies))
    roles = {role["name"]: role for role in config.JupyterHub.load_roles}
    assert set(roles) == {"user", "replay", "replay-vo-managers", "idle-culler"}
    assert roles["replay-vo-managers"]["groups"] == ["vo.one:managers"]


# ---- the service in its pod


def test_the_service_reads_the_values_from_the_same_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    documents = render(EVERYTHING)
    (pod,) = [pod for name, pod in pods(documents) if name == "replay"]
    for name, value in environment(pod["containers"][0]).items():
        monkeypatch.setenv(name, value)
    data = one(documents, "ConfigMap", "replay")["data"]
    for name in ("10-first", "20-last"):
        (tmp_path / f"{name}.py").write_text(data[f"extra-{name}.py"])
    monkeypatch.setenv("REPLAY_EXTRA_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    config = PyFileConfigLoader("jupyterhub_config.py", path=str(ROOT)).load_config()
    known = ServiceSettings()
    known.update_config(Config(ServiceSettings=config.ReplayBuildService))

    assert known.builder == "kubernetes"
    assert known.registry == "https://registry.example.org/replay"
    assert known.builder_image == f"registry.example.org/replay-builder@sha256:{'a' * 64}"
    assert known.build_namespace == "replay-builds"
    assert known.build_tolerations == EVERYTHING["builds"]["tolerations"]
    assert known.build_node_selector == {"pool": "builds"}
    assert known.build_resources["limits"] == {"memory": "1Gi"}
    assert known.build_pod_wait == 300
    assert (known.mem_guarantee, known.mem_limit) == (1024**3, 3 * 1024**3)
    assert (known.cpu_guarantee, known.cpu_limit) == (0.5, 2.0)
    assert known.build_push_secret == "push"
    assert known.build_engine_socket == "/run/replay-engine/docker.sock"
    assert known.vos == EVERYTHING["vos"]
    assert known.dataverse_installations == "/etc/replay/dataverse_installations.json"
    assert known.source_tokens_file == "/etc/replay/secret/source_tokens"
    assert known.public_url == "https://hub.example.org"
    assert known.token_file == "/etc/replay/secret/service_token"
    assert known.api_token_file == "/etc/replay/secret/hub_token"
    assert known.state_dir == "/srv/replay"
    assert known.builds_at_once == 9  # of the site's own
    assert not Path("/srv/replay").exists()


def test_without_a_url_links_are_as_peoples_requests_say(monkeypatch: pytest.MonkeyPatch) -> None:
    (pod,) = [pod for name, pod in pods(render(LEAST)) if name == "replay"]
    known = environment(pod["containers"][0])
    assert "REPLAY_URL" not in known
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    config = PyFileConfigLoader("jupyterhub_config.py", path=str(ROOT)).load_config()
    assert config.ReplayBuildService.public_url == ""
    # So the hub's own limit of CPU holds for sessions.
    assert not {"cpu_guarantee", "cpu_limit"} & set(config.ReplayBuildService)
