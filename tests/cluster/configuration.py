"""What each program of a cluster is told: its files, and its command line. Functions of a folder, nothing is started here."""

import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.binaries import CNI, containerd_programs, kubernetes_programs, program
from tests.cluster.node import HOST_ADDRESS, NAME, NODE_ADDRESS, POD_NETWORK
from tests.cluster.pki import Authority, Identity, kubeconfig, signing_key

NODE = "node1"
PAUSE = "localhost/pause:3"
API_PORT = 16443
_CONTAINERD = "/run/containerd/containerd.sock"
_ETCD = "http://127.0.0.1:12379"
_SERVICES = "10.96.0.0/16"
_FIRST_SERVICE = "10.96.0.1"
"""The address at which pods find the API."""
_CLUSTER_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")


def write_configuration(folder: Path) -> None:
    """All files that the programs read, below ``folder``."""
    _write_identities(folder)
    files: Mapping[str, object] = {
        "network/10-pods.conflist": _pod_network(),
        "kubelet.json": _kubelet(folder),
        "proxy.json": _proxy(folder),
    }
    for name, document in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))  # JSON is YAML
    (folder / "containerd.toml").write_text(_containerd(folder))
    (folder / "resolv.conf").write_text("".join(f"nameserver {address}\n" for address in _name_servers()))


def trust_registry(folder: Path, host: str) -> None:
    """Let images of the registry at ``host:port`` be pulled without TLS. Read at each pull."""
    trusted = folder / "registries" / host
    trusted.mkdir(parents=True, exist_ok=True)
    lines = (
        f'server = "http://{host}"',
        f'[host."http://{host}"]',
        '  capabilities = ["pull", "resolve"]',
        "",
    )
    (trusted / "hosts.toml").write_text("\n".join(lines))


def _write_identities(folder: Path) -> None:
    authority = Authority.new()
    keys = folder / "keys"
    keys.mkdir()
    (keys / "authority.crt").write_bytes(authority.pem)
    admin = authority.client("admin", "system:masters")
    identities: Mapping[str, Identity] = {
        "server": authority.server(
            "kube-apiserver", names=_CLUSTER_NAMES, addresses=("127.0.0.1", _FIRST_SERVICE, NODE_ADDRESS)
        ),
        "node": authority.server(NODE, names=(NODE,), addresses=(NODE_ADDRESS,)),
        "accounts": signing_key(),
        "admin": admin,
    }
    for name, identity in identities.items():
        (keys / f"{name}.crt").write_bytes(identity.certificate)
        (keys / f"{name}.key").write_bytes(identity.key)
    users = {
        "kubeconfig": admin,
        "controllers.kubeconfig": authority.client("system:kube-controller-manager"),
        "scheduler.kubeconfig": authority.client("system:kube-scheduler"),
        "kubelet.kubeconfig": authority.client(f"system:node:{NODE}", "system:nodes"),
        "proxy.kubeconfig": authority.client("system:kube-proxy"),
    }
    for name, who in users.items():
        (folder / name).write_text(kubeconfig(f"https://{NODE_ADDRESS}:{API_PORT}", authority, who))


def _name_servers() -> list[str]:
    """Those of the machine that pods reach too. Where it has none, this machine, which refuses: better than waiting."""
    lines = Path("/etc/resolv.conf").read_text().splitlines()
    named = [words[1] for line in lines if len(words := line.split()) > 1 and words[0] == "nameserver"]
    reached = [address for address in named if not ipaddress.ip_address(address.partition("%")[0]).is_loopback]
    return reached[:3] or [HOST_ADDRESS]


def _pod_network() -> object:
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods0",
                "isGateway": True,
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": POD_NETWORK}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def _containerd(folder: Path) -> str:
    # Its own folders are the usual ones, since those are the node's own. A container may not be made less likely to be
    # killed than containerd itself, which not every machine lets root do.
    return f"""
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  stream_server_address = "127.0.0.1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
    conf_dir = "{folder}/network"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/registries"
"""


def _kubelet(folder: Path) -> object:
    """Logs are rotated as they are by default: no test is to rely on another size."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{folder}/keys/authority.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{folder}/keys/node.crt",
        "tlsPrivateKeyFile": f"{folder}/keys/node.key",
        # Until it says so again, a node that is ready is not known to be.
        "nodeStatusUpdateFrequency": "1s",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{NAME}",
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "resolvConf": f"{folder}/resolv.conf",
        # There is no DNS of the cluster's own; with an address here, pods that ask for it get no warning.
        "clusterDNS": _name_servers(),
        "clusterDomain": "cluster.local",
        # A machine with little room is not to lose its images or its pods for that.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "volumePluginDir": f"{folder}/volume-plugins",
    }


def _proxy(folder: Path) -> object:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": "127.0.0.1",
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clientConnection": {"kubeconfig": f"{folder}/proxy.kubeconfig"},
        "clusterCIDR": POD_NETWORK,
        "mode": "iptables",
        "hostnameOverride": NODE,
        # Limits of the whole machine's connections stay as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


# ---- command lines


def etcd(folder: Path) -> list[str]:
    peers = "http://127.0.0.1:12380"
    return [
        program("etcd"), f"--data-dir={folder}/etcd", "--unsafe-no-fsync",
        f"--listen-client-urls={_ETCD}", f"--advertise-client-urls={_ETCD}",
        f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}",
    ]  # fmt: skip


def containerd(folder: Path) -> list[str]:
    return [f"{containerd_programs()}/containerd", f"--config={folder}/containerd.toml"]


def api_server(folder: Path) -> list[str]:
    keys = folder / "keys"
    return [
        f"{kubernetes_programs()}/kube-apiserver", f"--etcd-servers={_ETCD}",
        "--bind-address=0.0.0.0", f"--secure-port={API_PORT}", f"--advertise-address={NODE_ADDRESS}",
        f"--service-cluster-ip-range={_SERVICES}", "--endpoint-reconciler-type=master-count",
        "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={keys}/authority.crt", f"--cert-dir={folder}/api-server",
        f"--tls-cert-file={keys}/server.crt", f"--tls-private-key-file={keys}/server.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys}/accounts.crt", f"--service-account-signing-key-file={keys}/accounts.key",
        "--kubelet-preferred-address-types=InternalIP", f"--kubelet-certificate-authority={keys}/authority.crt",
        f"--kubelet-client-certificate={keys}/admin.crt", f"--kubelet-client-key={keys}/admin.key",
    ]  # fmt: skip


def controllers(folder: Path) -> list[str]:
    keys = folder / "keys"
    return [
        f"{kubernetes_programs()}/kube-controller-manager", "--secure-port=10257", *_beside_the_api(folder, "controllers"),
        f"--service-account-private-key-file={keys}/accounts.key", f"--root-ca-file={keys}/authority.crt",
        "--use-service-account-credentials", f"--flex-volume-plugin-dir={folder}/volume-plugins",
    ]  # fmt: skip


def scheduler(folder: Path) -> list[str]:
    return [f"{kubernetes_programs()}/kube-scheduler", "--secure-port=10259", *_beside_the_api(folder, "scheduler")]


def _beside_the_api(folder: Path, name: str) -> list[str]:
    known = folder / f"{name}.kubeconfig"
    return [
        "--leader-elect=false", "--bind-address=127.0.0.1", "--port=0", f"--cert-dir={folder}/{name}",
        f"--kubeconfig={known}", f"--authentication-kubeconfig={known}", f"--authorization-kubeconfig={known}",
    ]  # fmt: skip


def kubelet(folder: Path) -> list[str]:
    return [
        f"{kubernetes_programs()}/kubelet", f"--config={folder}/kubelet.json", f"--kubeconfig={folder}/kubelet.kubeconfig",
        f"--hostname-override={NODE}", f"--node-ip={NODE_ADDRESS}", f"--pod-infra-container-image={PAUSE}",
        "--container-runtime=remote", f"--container-runtime-endpoint=unix://{_CONTAINERD}",
        "--runtime-cgroups=/", "--kubelet-cgroups=/",
    ]  # fmt: skip


def proxy(folder: Path) -> list[str]:
    return [f"{kubernetes_programs()}/kube-proxy", f"--config={folder}/proxy.json"]
