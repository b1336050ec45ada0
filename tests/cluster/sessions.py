"""A hub whose servers are pods, and images of a few megabytes that behave as somebody's might."""

import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_build_service.schemas import ImageModel
from tests.cluster.binaries import program
from tests.cluster.external import AnyCluster
from tests.cluster.kube import Kube
from tests.plan_hub import ADA, PlanHub
from tests.registry_server import DOCKER, RegistryServer

PORT = 8888

_ANSWER = r"""#!/bin/sh
while read -r line; do [ ${#line} -le 1 ] && break; done
printf 'HTTP/1.1 200 OK\r\nX-JupyterHub-Version: 6.1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}'
"""
_SERVING = f"nc -ll -p {PORT} -e /answer &"
SERVER = f"trap 'exit 0' TERM; {_SERVING} wait"
"""A shell's script that is a server which JupyterHub takes for its own, and ends when it is asked to."""


@dataclass(frozen=True)
class Images:
    """Pushes images: busybox, an entrypoint that is a script, and a file of random content, so that no two are alike."""

    registry: RegistryServer

    def push(self, name: str, script: str, *, user: str = "1000", megabytes: float = 0, entrypoint: bool = True) -> str:
        """``host/sessions/name@sha256:…`` of an image that runs a shell's script as its entrypoint."""
        busybox = Path(program("busybox")).read_bytes()
        names = subprocess.run(
            (program("busybox"), "--list"), capture_output=True, text=True, check=True
        ).stdout.split()
        files = {
            "bin/busybox": busybox,
            "answer": _ANSWER.encode(),
            "etc/passwd": b"root:x:0:0::/:/bin/sh\njovyan:x:1000:1000::/home/jovyan:/bin/sh\n",
            "name": f"{name}\n".encode() + os.urandom(int(megabytes * 1024**2)),
            "entry": f"#!/bin/sh\n{script}\n".encode(),
        }
        configuration = {
            "User": user,
            "WorkingDir": "/home/jovyan",
            "Env": ["PATH=/bin"],
            "Entrypoint": ["/entry"] if entrypoint else None,
        }
        layer = _layer(files, [one for one in names if one != "busybox"])
        image = self.registry.push_image(
            f"sessions/{name}", "1", family=DOCKER, configuration=configuration, layers=[layer]
        )
        return f"{self.registry.settings().host}/sessions/{name}@{image.digest}"

    def model(self, *, user: str = "1000", entrypoint: bool = True) -> ImageModel:
        """What the build service tells the spawner of such an image."""
        return ImageModel(
            user=user,
            working_dir="/home/jovyan",
            home=None,
            entrypoint=["/entry"] if entrypoint else [],
            command=[],
        )


def serving_until(then: str) -> str:
    """A script of a server that does something else once there is ``/tmp/end``."""
    return f"{_SERVING} while [ ! -e /tmp/end ]; do sleep 0.1; done; {then}"


class KubeHub(PlanHub):
    """A hub whose servers are pods of one namespace."""

    def __init__(self, folder: Path, cluster: AnyCluster, kube: Kube, namespace: str, extra_config: str) -> None:
        config = f"""
import os as _os
c.KubeSpawner.namespace = {namespace!r}
# The cluster of the tests has no DNS, which would fill the events with warnings.
c.KubeSpawner.extra_pod_config = {{"dnsPolicy": "Default"}}
c.Spawner.http_timeout = 40
{extra_config}
"""
        environment = {"KUBECONFIG": str(cluster.kubeconfig)}
        super().__init__(folder, "replay_spawner.kube.ReplayKubeSpawner", cluster.host_address, environment, config)
        self.kube = kube
        self.namespace = namespace

    def pods(self) -> list[dict[str, Any]]:
        return self.kube.pods(self.namespace)

    def launched(self, location: str, image: ImageModel | None = None, user: str = ADA, **more: Any) -> dict[str, Any]:
        """The session's pod."""
        response = self.launch(location, image, user, **more)
        assert response.status_code == 201, f"{response.text}\n{self.log[-4000:]}"
        (pod,) = [one for one in self.pods() if one["metadata"]["annotations"]["hub.jupyter.org/username"] == user]
        return pod

    def nothing_is_left(self) -> None:
        """At once, of what is the hub's to remove; what belongs to a pod, the cluster removes a moment later."""
        assert [pod["metadata"]["name"] for pod in self.pods()] == []
        self.kube.assert_nothing_left(self.namespace)


def notebook(pod: Mapping[str, Any]) -> dict[str, Any]:
    (container,) = [one for one in pod["spec"]["containers"] if one["name"] == "notebook"]
    return container


def _layer(files: Mapping[str, bytes], links: list[str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, mode in (("tmp", 0o1777), ("home", 0o755), ("home/jovyan", 0o777)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            archive.addfile(folder)
        for name, content in files.items():
            file = tarfile.TarInfo(name)
            file.size, file.mode = len(content), 0o755
            archive.addfile(file, io.BytesIO(content))
        for name in links:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return made.getvalue()
