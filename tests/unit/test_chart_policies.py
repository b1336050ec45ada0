"""What the chart's NetworkPolicies let through, by the rules of Kubernetes. No test here sends anything: the manifests are
read as a network plugin reads them."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_build_service import outgoing
from replay_build_service.builders.kubernetes.pods import selector as build_pods
from replay_build_service.builders.kubernetes.settings import KubernetesBuilderSettings
from replay_build_service.outgoing import is_public
from tests.unit.chart_rendering import EVERYTHING, HOSTS_ENGINE, LEAST, Document, merged, one, pods, render

pytestmark = pytest.mark.hub_independent

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Pod:
    labels: Labels
    namespace: str = "jupyter"


@dataclass(frozen=True)
class Address:
    text: str


Peer = Pod | Address


def matches(selector: Document, labels: Labels) -> bool:
    assert set(selector) <= {"matchLabels"}, selector
    return selector.get("matchLabels", {}).items() <= labels.items()


def peer_matches(entry: Document, peer: Peer, namespace: str) -> bool:
    match peer:
        case Address(text) if "ipBlock" in entry:
            address = ipaddress.ip_address(text)
            # Such an address is never on the wire: what is sent there is sent to the IPv4 address.
            address = getattr(address, "ipv4_mapped", None) or address
            block = entry["ipBlock"]
            return address in ipaddress.ip_network(block["cidr"]) and not any(
                address in ipaddress.ip_network(closed) for closed in block.get("except", ())
            )
        case Pod() if "ipBlock" not in entry:
            if "namespaceSelector" not in entry and peer.namespace != namespace:
                return False
            assert entry.get("namespaceSelector", {}) == {}, entry
            return matches(entry.get("podSelector", {}), peer.labels)
        case _:
            return False


def rule_matches(rule: Document, way: str, peer: Peer, port: int, protocol: str, namespace: str) -> bool:
    entries, ports = rule.get(way, ()), rule.get("ports", ())
    return (not entries or any(peer_matches(entry, peer, namespace) for entry in entries)) and (
        not ports or any((one["port"], one["protocol"]) == (port, protocol) for one in ports)
    )


def permits(documents: list[Document], pod: Pod, direction: str, peer: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether what these policies have to say of this pod lets this through (``Egress``: from it, ``Ingress``: to it)."""
    chosen = [
        document["spec"]
        for document in documents
        if document["kind"] == "NetworkPolicy"
        and document["metadata"].get("namespace", "jupyter") == pod.namespace
        and matches(document["spec"]["podSelector"], pod.labels)
        and direction in document["spec"]["policyTypes"]
    ]
    way = {"Egress": "to", "Ingress": "from"}[direction]
    return not chosen or any(
        rule_matches(rule, way, peer, port, protocol, pod.namespace)
        for policy in chosen
        for rule in policy.get(direction.lower(), ())
    )


HUB = Pod({"app": "jupyterhub", "component": "hub", "release": "hub"})
PROXY = Pod({"app": "jupyterhub", "component": "proxy"})
SESSION = Pod({"app": "jupyterhub", "component": "singleuser-server"})
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system")
OTHER = Pod({"app": "somebody-elses"}, "elsewhere")
SERVICE = Pod(
    {
        "app.kubernetes.io/name": "replay",
        "app.kubernetes.io/instance": "replay",
        "app.kubernetes.io/component": "service",
    }
)
ENGINE = Pod({**SERVICE.labels, "app.kubernetes.io/component": "engine"}, "jupyter-builds")
BUILD = Pod({"app.kubernetes.io/name": "replay", "app.kubernetes.io/component": "replay-build"}, "jupyter-builds")

# Of AWS and most others, Alibaba, Azure's host channel, Oracle's older one.
METADATA = ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "168.63.129.16", "192.0.0.192"]
PRIVATE = [
    "10.1.2.3",
    "172.20.0.1",
    "192.168.1.1",
    "127.0.0.1",
    "100.64.0.1",
    "0.0.0.0",
    "fc00::1",
    "fe80::1",
    "::1",
    "::ffff:10.1.2.3",
]
PUBLIC = ["1.1.1.1", "140.82.121.4", "2606:4700:4700::1111"]
STRANGERS = {"session": SESSION, "build": BUILD, "engine": ENGINE}


@pytest.mark.parametrize("pod", STRANGERS.values(), ids=STRANGERS)
def test_strangers_code_reaches_the_internet_and_neither_the_cluster_nor_metadata(pod: Pod) -> None:
    documents = render()
    for address in PUBLIC:
        assert permits(documents, pod, "Egress", Address(address), 443), address
        assert permits(documents, pod, "Egress", Address(address), 22), address
    for address in (*METADATA, *PRIVATE):
        for port in (80, 443, 6443, 10250, 2375):
            assert not permits(documents, pod, "Egress", Address(address), port), address
    for other in (SERVICE, SESSION, BUILD, ENGINE, OTHER, DNS):
        for port in (80, 443, 8888, 10101):
            assert not permits(documents, pod, "Egress", other, port), other


@given(st.ip_addresses())
def test_what_the_service_itself_would_not_ask_since_it_is_not_public_is_closed(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    documents = render()
    for pod in STRANGERS.values():
        assert is_public(str(address)) or not permits(documents, pod, "Egress", Address(str(address)), 443)


# The service's rules name these beside what Python knows of: a drawn address would hardly ever be in a small one.
@pytest.mark.parametrize("network", [*outgoing._NEVER_PUBLIC_V4, *outgoing._NEVER_PUBLIC_V6], ids=str)
def test_each_network_that_the_service_takes_for_never_public_is_closed_as_a_whole(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> None:
    for pod in STRANGERS.values():
        for address in (network[0], network[network.num_addresses // 2], network[-1]):
            assert not permits(render(), pod, "Egress", Address(str(address)), 443), address


@pytest.mark.parametrize("pod", [*STRANGERS.values(), SERVICE], ids=[*STRANGERS, "service"])
def test_names_can_be_resolved(pod: Pod) -> None:
    for protocol in ("UDP", "TCP"):
        assert permits(render(), pod, "Egress", DNS, 53, protocol)
        assert permits(render(), pod, "Egress", Address("169.254.20.10"), 53, protocol)
        assert not permits(render(), pod, "Egress", OTHER, 53, protocol)


def test_sessions_reach_the_hub_and_its_proxy_and_builds_do_not() -> None:
    assert permits(render(), SESSION, "Egress", HUB, 8081)
    assert permits(render(), SESSION, "Egress", PROXY, 8000)
    assert not permits(render(), SESSION, "Egress", PROXY, 8001)  # its API
    assert not permits(render(), SESSION, "Egress", Pod(HUB.labels, "another-hubs"), 8081)
    for pod in (BUILD, ENGINE):
        assert not permits(render(), pod, "Egress", HUB, 8081)
        assert not permits(render(), pod, "Egress", PROXY, 8000)


@pytest.mark.parametrize("pod", [BUILD, ENGINE], ids=["build", "engine"])
def test_nothing_comes_in_to_builds(pod: Pod) -> None:
    for peer in (HUB, PROXY, SERVICE, SESSION, BUILD, OTHER, Address("1.1.1.1")):
        for port in (80, 2375, 2376):
            assert not permits(render(), pod, "Ingress", peer, port)


def test_the_service_hears_the_hub_and_its_proxy_alone() -> None:
    for peer, is_let_in in ((HUB, True), (PROXY, True), (SESSION, False), (BUILD, False), (OTHER, False)):
        assert permits(render(), SERVICE, "Ingress", peer, 10101) is is_let_in, peer
    assert not permits(render(), SERVICE, "Ingress", HUB, 22)
    assert not permits(render(), SERVICE, "Ingress", Address("10.1.2.3"), 10101)


def test_prometheus_hears_of_metrics_and_of_nothing_else_and_only_where_they_are_on() -> None:
    prometheus = Pod({"app.kubernetes.io/name": "prometheus"}, "monitoring")
    assert not permits(render(), SERVICE, "Ingress", prometheus, 10102)
    documents = render(merged(LEAST, {"metrics": {"enabled": True}}))
    assert permits(documents, SERVICE, "Ingress", prometheus, 10102)
    assert not permits(documents, SERVICE, "Ingress", prometheus, 10101)
    for peer in (HUB, PROXY, SESSION, BUILD, OTHER):
        assert not permits(documents, SERVICE, "Ingress", peer, 10102), peer
    nobody = render(merged(LEAST, {"metrics": {"enabled": True, "from": []}}))
    assert not permits(nobody, SERVICE, "Ingress", prometheus, 10102)


def test_the_service_reaches_hub_kubernetes_and_the_repositories_hosts() -> None:
    documents = render()
    assert permits(documents, SERVICE, "Egress", HUB, 8081)
    assert not permits(documents, SERVICE, "Egress", HUB, 8001)
    # What a person made is read at their session's server, with their own rights, and nothing else of it.
    assert permits(documents, SERVICE, "Egress", SESSION, 8888)
    assert not permits(documents, SERVICE, "Egress", SESSION, 8889)
    for address in PUBLIC:
        assert permits(documents, SERVICE, "Egress", Address(address), 443)
    for port, is_open in ((443, True), (6443, True), (5432, False), (10250, False)):
        assert permits(documents, SERVICE, "Egress", Address("10.96.0.1"), port) is is_open
    for address in ("169.254.169.254", "100.100.100.200"):
        assert not permits(documents, SERVICE, "Egress", Address(address), 80)
        assert not permits(documents, SERVICE, "Egress", Address(address), 443)


def test_lists_of_addresses_are_values() -> None:
    documents = render(EVERYTHING)
    builds = [Pod(pod.labels, "replay-builds") for pod in (BUILD, ENGINE)]
    for pod in (SESSION, SERVICE, *builds):
        assert not permits(documents, pod, "Egress", Address("203.0.113.7"), 443)
        assert not permits(documents, pod, "Egress", Address("2001:db8::7"), 443)
        assert permits(documents, pod, "Egress", Address("10.7.7.7"), 1234)
    for pod in (SERVICE, *builds):
        assert permits(documents, pod, "Egress", Address("10.9.9.9"), 5000)
    assert not permits(documents, SESSION, "Egress", Address("10.9.9.9"), 5000)
    # Policies are in the namespace of what they are about.
    assert permits(documents, BUILD, "Egress", Address("10.1.2.3"), 443)


def test_the_api_of_kubernetes_can_be_named_exactly() -> None:
    documents = render(merged(LEAST, {"networkPolicies": {"apiServer": {"cidrs": ["10.96.0.1/32"], "ports": [443]}}}))
    assert permits(documents, SERVICE, "Egress", Address("10.96.0.1"), 443)
    assert not permits(documents, SERVICE, "Egress", Address("10.96.0.2"), 443)


def test_a_policy_knows_the_pods_that_it_is_for() -> None:
    documents = render()
    for kind, name, pod in (("Deployment", "replay", SERVICE), ("DaemonSet", "replay-engine", ENGINE)):
        labels = one(documents, kind, name)["spec"]["template"]["metadata"]["labels"]
        assert pod.labels.items() <= labels.items()
    # By this label Zero to JupyterHub's own policy lets the service in to the hub.
    service = one(documents, "Deployment", "replay")["spec"]["template"]["metadata"]["labels"]
    assert service["hub.jupyter.org/network-access-hub"] == "true"


def test_build_pods_have_the_label_that_their_policy_selects() -> None:
    selector = build_pods(
        KubernetesBuilderSettings(namespace="jupyter", builder_image="registry.example.org/replay-builder", site="site")
    )
    assert "app.kubernetes.io/component=replay-build" in selector.split(",")


def test_closed_addresses_are_within_what_is_open() -> None:
    """Kubernetes refuses an exception that is not."""
    for values in (LEAST, EVERYTHING):
        for document in render(values):
            for rule in document.get("spec", {}).get("egress", ()) if document["kind"] == "NetworkPolicy" else ():
                for entry in rule.get("to", ()):
                    block: dict[str, Any] = entry.get("ipBlock", {"cidr": "0.0.0.0/0"})
                    opened = ipaddress.ip_network(block["cidr"])
                    for closed in block.get("except", ()):
                        network = ipaddress.ip_network(closed)
                        assert network.subnet_of(opened)  # pyright: ignore[reportArgumentType] - raises for another family
                        # Kubernetes takes these for IPv4's.
                        assert getattr(network.network_address, "ipv4_mapped", None) is None


def test_there_need_be_none() -> None:
    assert [one for one in render(HOSTS_ENGINE) if one["kind"] == "NetworkPolicy"] == []
    assert list(pods(render(HOSTS_ENGINE)))
