"""The chart: what it is made of, what it takes, and that each supported Kubernetes takes what it makes."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate.utils as validation
import pytest
import yaml

from replay_build_service import settings
from tests.requirements import ROOT
from tests.unit.chart_rendering import (
    CHART,
    EVERYTHING,
    LEAST,
    SETS,
    environment,
    helm,
    merged,
    one,
    pods,
    refusal,
    render,
)

VERSIONS = list(dict.fromkeys(version for version in validation.all_versions() if int(version.split(".")[1]) >= 28))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())

# Each version's definitions are some megabytes, and would be read for every single document.
validation.schema_contents = cache(validation.schema_contents)


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_helm_finds_no_fault_with_it(values: Mapping[str, Any]) -> None:
    done = helm("lint", "--strict", str(CHART), "--values=-", values=values)
    assert done.returncode == 0, done.stdout + done.stderr


def test_versions_from_1_28_on_are_checked() -> None:
    assert (VERSIONS[0], VERSIONS[-1], len(VERSIONS)) == ("1.28.0", "1.37.0", 10)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_all_that_it_makes(version: str) -> None:
    documents = {json.dumps(document): document for values in SETS.values() for document in render(values, version)}
    assert len(documents) > 30
    for document in documents.values():
        assert validation.validate(document, version, strict=True) == validation.major_minor(version)


def test_a_fault_in_a_manifest_would_be_found() -> None:
    document = one(render(), "Deployment", "replay")
    document["spec"]["template"]["spec"]["contianers"] = []
    with pytest.raises(validation.ValidationError, match="contianers"):
        validation.validate(document, VERSIONS[0], strict=True)


@pytest.mark.parametrize(
    ("version", "budget", "has_pod_security"),
    [("1.20.2", "policy/v1beta1", False), ("1.21.0", "policy/v1", False), ("1.28.0", "policy/v1", True)],
)
def test_kinds_that_old_clusters_lack_are_switched(version: str, budget: str, has_pod_security: bool) -> None:
    documents = render(EVERYTHING, version)
    assert one(documents, "PodDisruptionBudget", "replay")["apiVersion"] == budget
    labels = one(documents, "Namespace", "replay-builds")["metadata"]["labels"]
    assert ("pod-security.kubernetes.io/enforce" in labels) == has_pod_security


def test_prometheus_is_told_of_the_service_where_the_cluster_knows_how() -> None:
    """The kind is the Prometheus Operator's own, so Kubernetes' schemas do not hold it; see its API reference."""
    assert not [one for one in render(EVERYTHING) if one["kind"] == "ServiceMonitor"]
    documents = render(EVERYTHING, "1.37.0", "monitoring.coreos.com/v1")
    monitor = one(documents, "ServiceMonitor", "replay")
    assert monitor["metadata"]["labels"]["release"] == "mine"
    service = one(documents, "Service", "replay")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["path"], endpoint["interval"]) == ("/metrics", "1m")
    ports = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
    (container,) = next(pod for name, pod in pods(documents) if name == "replay")["containers"]
    inside = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert environment(container)["REPLAY_METRICS_ADDRESS"] == f"0.0.0.0:{inside[ports[endpoint['port']]]}"


# ---- values


def paths(schema: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, part in schema.get("properties", {}).items():
        yield f"{before}{name}", part
        yield from paths(part, f"{before}{name}.")


def values(tree: Mapping[str, Any], known: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Paths of values, down to those whose content is free."""
    for name, value in tree.items():
        yield f"{before}{name}"
        part = known.get("properties", {}).get(name, {})
        if isinstance(value, dict) and "properties" in part:
            yield from values(value, part, f"{before}{name}.")


def test_every_value_is_described_and_has_a_default_and_there_are_no_others() -> None:
    described = dict(paths(SCHEMA))
    assert sorted(values(DEFAULTS, SCHEMA)) == sorted(described)
    for path, part in described.items():
        assert len(part.get("description", "")) > 8, path
        assert part["description"].endswith((".", "…", "3600")), path
        if "properties" in part:
            assert part["additionalProperties"] is False, path
    assert SCHEMA["additionalProperties"] is False


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"service": {"replicas": 2}}, "service.replicas: Must be less than or equal to 1"),
        ({"nope": 1}, "Additional property nope is not allowed"),
        ({"engine": {"cleaner": {"nope": 1}}}, "engine.cleaner: Additional property nope is not allowed"),
        ({"engine": {"socket": "/docker.sock"}}, "engine.socket: Does not match pattern"),
        ({"networkPolicies": {"clusterCIDRs": ["10.0.0.1"]}}, "Does not match pattern"),
        ({"hub": {"podLabels": {"app": None, "component": None}}}, "hub.podLabels: Must have at least 1 properties"),
        ({"registry": {"url": "registry.example.org"}}, "registry.url: Does not match pattern"),
        ({"registry": {"url": ""}}, "registry.url: https://host[:port][/prefix] of the registry that keeps images."),
        (
            {"service": {"image": {"name": ""}}},
            "service.image.name: name the image that charts/replay/images/Dockerfile makes (target service)",
        ),
        (
            {"builds": {"image": {"name": ""}}},
            "builds.image.name: name the image that charts/replay/images/Dockerfile makes (target builder)",
        ),
        ({"builds": {"namespace": "default"}}, "so it would reach the hub's Secrets"),  # helm's own namespace
        ({"sessions": {"cpu": {"limit": "2"}}}, "sessions.cpu.limit: Invalid type"),
        ({"builds": {"image": {"tag": ""}}}, "builds.image.tag: a tag, or best a digest, sha256:…"),
        ({"service": {"extraConfig": {"../up": "x"}}}, "service.extraConfig"),
    ],
)
def test_what_makes_no_sense_is_refused(change: Mapping[str, Any], told: str) -> None:
    assert told in refusal(merged(LEAST, change))


def test_why_there_is_one_replica_is_said() -> None:
    assert "one pod at a time may have" in dict(paths(SCHEMA))["service.replicas"]["description"]


# ---- what the service is told


def test_it_mounts_this_very_configuration() -> None:
    data = one(render(), "ConfigMap", "replay")["data"]
    assert data["jupyterhub_config.py"].rstrip() == (ROOT / "jupyterhub_config.py").read_text().rstrip()


def test_a_package_has_the_configuration_and_no_images(tmp_path: Path) -> None:
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tgz"))) as archive:
        names = archive.getnames()
        configuration = archive.extractfile("replay/files/jupyterhub_config.py")
        assert configuration is not None
        assert configuration.read() == (ROOT / "jupyterhub_config.py").read_bytes()
    assert "replay/values-z2jh.yaml" in names
    assert not [name for name in names if "images" in name]


def told(values: Mapping[str, Any]) -> dict[str, str]:
    (service,) = [pod for name, pod in pods(render(values)) if name == "replay"]
    return environment(service["containers"][0])


def test_it_is_told_the_values() -> None:
    known = told(EVERYTHING)
    wanted = {
        "REPLAY_HUB": "zero-to-jupyterhub",
        "REPLAY_URL": "https://hub.example.org",
        "REPLAY_VOS": "students= vo.example.org=https://enrol.example.org",
        "REPLAY_MEM_LIMIT": "3G",
        "REPLAY_CPU_GUARANTEE": "0.5",
        "REPLAY_CPU_LIMIT": "2",
        "REPLAY_ALLOWED_HOSTS": "github.com,*.example.org",
        "REPLAY_ARCHIVE_HOSTS": "zenodo.org",
        "REPLAY_GITLAB_HOSTS": "git.example.org",
        "REPLAY_DATAVERSE_INSTALLATIONS": "/etc/replay/dataverse_installations.json",
        "REPLAY_SOURCE_TOKENS_FILE": "/etc/replay/secret/source_tokens",
        "REPLAY_REGISTRY": "https://registry.example.org/replay",
        "REPLAY_BUILD_PUSH_SECRET": "push",
        "REPLAY_BUILD_NAMESPACE": "replay-builds",
        "REPLAY_BUILDER_IMAGE": f"registry.example.org/replay-builder@sha256:{'a' * 64}",
        "REPLAY_BUILD_ENGINE_SOCKET": "/run/replay-engine/docker.sock",
        "REPLAY_BUILD_ENGINE_DATA": "/var/lib/replay-engine",
        "REPLAY_BUILD_CA_CONFIG_MAP": "site-authorities",
        "REPLAY_ORDINARY_SERVERS": "0",
        "REPLAY_REPO2DOCKER_CONFIG": "/etc/replay/repo2docker_config.py",
    }
    assert {name: known.get(name) for name in wanted} == wanted
    assert json.loads(known["REPLAY_BUILD_TOLERATIONS"]) == EVERYTHING["builds"]["tolerations"]
    assert json.loads(known["REPLAY_BUILD_NODE_SELECTOR"]) == {"pool": "builds"}
    assert json.loads(known["REPLAY_BUILD_PULL_SECRETS"]) == ["pull"]
    hosts = told(SETS["the host's engine"])
    assert hosts["REPLAY_BUILD_ENGINE_SOCKET"] == "/var/run/docker.sock"
    assert hosts["REPLAY_BUILD_ENGINE_DATA"] == "/var/lib/docker"
    assert "REPLAY_BUILD_ENGINE_PODS" not in hosts
    assert not {"REPLAY_CPU_GUARANTEE", "REPLAY_CPU_LIMIT"} & hosts.keys()
    assert not {"REPLAY_DATAVERSE_INSTALLATIONS", "REPLAY_SOURCE_TOKENS_FILE"} & hosts.keys()


def test_all_that_it_is_told_is_known_to_the_configuration() -> None:
    head = (ROOT / "jupyterhub_config.py").read_text().split('"""')[1]
    told_names = {name for values in SETS.values() for name in told(values) if name.startswith("REPLAY_")}
    assert sorted(name for name in told_names if name not in head) == []


def test_builds_find_the_engine_by_its_pods_labels() -> None:
    documents = render(EVERYTHING)
    selector = dict(part.split("=") for part in told(EVERYTHING)["REPLAY_BUILD_ENGINE_PODS"].split(","))
    engine = one(documents, "DaemonSet", "replay-engine")
    assert engine["metadata"]["namespace"] == "replay-builds"
    assert selector.items() <= engine["spec"]["template"]["metadata"]["labels"].items()
    for name in ("nodeSelector", "tolerations"):
        assert engine["spec"]["template"]["spec"][name] == EVERYTHING["builds"][name]


def test_what_a_site_adds_is_where_the_configuration_looks_for_it() -> None:
    documents = render(EVERYTHING)
    (service,) = [pod for name, pod in pods(documents) if name == "replay"]
    data = one(documents, "ConfigMap", "replay")["data"]
    (etc,) = [volume for volume in service["volumes"] if volume["name"] == "etc"]
    sources = [source["configMap"] for source in etc["projected"]["sources"] if "configMap" in source]
    files = {item["path"]: data[item["key"]] for item in sources[0]["items"]}
    assert sorted(name for name in files if name.startswith("extra/")) == ["extra/10-first.py", "extra/20-last.py"]
    assert files["extra/20-last.py"].strip() == "c.ReplayBuildService.builds_at_once = 9"
    assert files["files/notice.txt"].rstrip() == "one\n\n  two"
    assert told(EVERYTHING)["REPLAY_EXTRA_CONFIG"] == "/etc/replay/extra"


def test_what_a_site_says_of_archives_is_where_the_service_is_told() -> None:
    known = told(EVERYTHING)

    def places(values: Mapping[str, Any]) -> dict[str, tuple[str, str, str]]:
        (service,) = [pod for name, pod in pods(render(values)) if name == "replay"]
        (etc,) = [volume for volume in service["volumes"] if volume["name"] == "etc"]
        return {
            f"/etc/replay/{item['path']}": (kind, source[kind]["name"], item["key"])
            for source in etc["projected"]["sources"]
            for kind in source
            for item in source[kind]["items"]
        }

    assert places(EVERYTHING)[known["REPLAY_DATAVERSE_INSTALLATIONS"]] == ("configMap", "installations", "list.json")
    assert places(EVERYTHING)[known["REPLAY_SOURCE_TOKENS_FILE"]] == ("secret", "archives", "tokens")
    assert not [path for path in places(LEAST) if "dataverse" in path or "source_tokens" in path]


def test_a_change_of_the_configuration_starts_the_service_anew() -> None:
    def checksum(values: Mapping[str, Any]) -> str:
        template = one(render(values), "Deployment", "replay")["spec"]["template"]
        return template["metadata"]["annotations"]["checksum/config"]

    assert checksum(LEAST) == checksum(merged(LEAST, {"service": {"podLabels": {"a": "b"}}}))
    assert checksum(LEAST) != checksum(merged(LEAST, {"service": {"extraConfig": {"a": "x = 1"}}}))


def test_each_setting_that_the_chart_names_is_one_of_the_service() -> None:
    traits = settings.ServiceSettings.class_trait_names(config=True)
    known = {f"REPLAY_{name.upper()}" for name in traits}
    structured = {name for name in told(EVERYTHING) if name.startswith(("REPLAY_BUILD_", "REPLAY_BUILDER_"))}
    assert sorted(structured - known) == []
