"""`ContainerEngine`: a dockerd of the tests' own, with a network of its own, that can be stopped and killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from tests.containers.tools import base_image_archive, engine_root

START_SECONDS = 60
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class ContainerEngine:
    """One engine. Sockets have short paths, so its folder is below the system's folder for temporary files."""

    insecure_registries: Sequence[str] = ()
    with_network: bool = True
    """Whether containers and builds reach the world. Without, the engine has no bridge."""
    containerd_store: bool = False
    """Whether containerd keeps the images, as newer engines have it, and not the engine itself."""
    data: Path | None = None
    """Where images lie; a folder of its own where none is given."""
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="replay-engine-")))
    number: int = 0
    """Of its bridge and its network; found by the first start."""
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def socket(self) -> Path:
        return self.folder / "docker.sock"

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def data_root(self) -> Path:
        return self.data or self.folder / "data"

    @property
    def config_folder(self) -> Path:
        """For ``DOCKER_CONFIG``: where the command line finds buildx, and credentials."""
        return self.folder / "config"

    @property
    def bridge(self) -> str:
        return f"replay{self.number}"

    @property
    def gateway(self) -> str:
        """The address of this machine as containers see it."""
        return f"10.214.{self.number}.1"

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to use this engine; its ``PATH`` too."""
        root = engine_root()
        return {
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(self.config_folder),
            "PATH": f"{root}/usr/bin:{os.environ.get('PATH', _PATH)}:/usr/sbin:/sbin",
        }

    @property
    def log(self) -> str:
        return (self.folder / "dockerd.log").read_text(errors="replace")

    def start(self) -> None:
        """Return once it answers."""
        root = engine_root()
        self.config_folder.mkdir(parents=True, exist_ok=True)
        config = self.config_folder / "config.json"
        if not config.exists():
            config.write_text(json.dumps({"cliPluginsExtraDirs": [f"{root}/usr/libexec/docker/cli-plugins"]}))
        daemon = self.folder / "daemon.json"
        settings = {
            "insecure-registries": list(self.insecure_registries),
            "features": {"containerd-snapshotter": self.containerd_store},
        }
        daemon.write_text(json.dumps(settings))
        if self.with_network:
            self._make_bridge()
        with (self.folder / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    f"{root}/usr/sbin/dockerd", f"--config-file={daemon}", f"--host={self.host}",
                    f"--data-root={self.data_root}", f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/pid",
                    f"--bridge={self.bridge if self.with_network else 'none'}", "--iptables=false", "--ip6tables=false",
                ],
                env={
                    "PATH": f"{root}/usr/bin:{root}/usr/sbin:{_PATH}",
                    # BuildKit would cut what a step prints at 2 MiB: our own limit is to be tried.
                    "BUILDKIT_STEP_LOG_MAX_SIZE": "-1",
                    "BUILDKIT_STEP_LOG_MAX_SPEED": "-1",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(self._command("version"), env=self._environment(), capture_output=True).returncode != 0:
            is_late = self._process.poll() is not None or time.monotonic() > deadline
            assert not is_late, f"dockerd did not start:\n{self.log}"
            time.sleep(0.05)

    def _make_bridge(self) -> None:
        """A bridge of this engine's own, with its own way out: the machine's engine, if it has one, keeps its rules."""
        if self.number:
            return  # It was started before.
        for number in random.sample(range(1, 250), 249):
            made = subprocess.run(
                f"ip link add replay{number} type bridge".split(), capture_output=True, env={"PATH": _PATH}
            )
            if made.returncode == 0:
                break  # Whoever makes it has it: another engine of the tests cannot come between.
        else:
            raise RuntimeError(f"There is no number left for a bridge: {made.stderr.decode()}")
        self.number = number
        for command in (
            f"ip addr add {self.gateway}/24 dev {self.bridge}",
            f"ip link set {self.bridge} up",
            f"iptables -t nat -A POSTROUTING {self._masquerade}",
            f"iptables -I FORWARD -i {self.bridge} -j ACCEPT",
            f"iptables -I FORWARD -o {self.bridge} -j ACCEPT",
            "sysctl -qw net.ipv4.ip_forward=1",
        ):
            subprocess.run(command.split(), check=True, env={"PATH": _PATH})

    @property
    def _masquerade(self) -> str:
        return f"-s 10.214.{self.number}.0/24 ! -o {self.bridge} -j MASQUERADE"

    def _command(self, *arguments: str) -> list[str]:
        return [f"{engine_root()}/usr/bin/docker", *arguments]

    def _environment(self) -> dict[str, str]:
        return os.environ | self.environment

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Standard output of the engine's command line."""
        done = subprocess.run(self._command(*arguments), env=self._environment(), capture_output=True, text=True)
        assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def build(self, tag: str, dockerfile: str, files: dict[str, str] | None = None) -> str:
        """The id of an image made from a Dockerfile, without anything of ours in between."""
        with tempfile.TemporaryDirectory(dir=self.folder) as context:
            for name, content in {**(files or {}), "Dockerfile": dockerfile}.items():
                Path(context, name).write_text(content)
            self.docker("buildx", "build", "--quiet", "--tag", tag, context)
        return self.image_id(tag)

    def image_id(self, tag: str) -> str:
        return self.docker("image", "inspect", "--format", "{{.Id}}", tag)

    def containers(self) -> list[dict[str, Any]]:
        """All of them, those that have ended too."""
        told = self.docker("ps", "--all", "--no-trunc", "--format", "{{json .}}")
        return [json.loads(line) for line in told.splitlines()]

    def import_base(self, tag: str) -> str:
        """The base image as ``tag``; its id. What is built on it trusts whom this machine trusts."""
        authorities = "/etc/ssl/certs/ca-certificates.crt"
        trust = " ".join(f"{name}={authorities}" for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"))
        self.docker("import", "--change", f"ENV PATH={_PATH} LANG=C.UTF-8 {trust}", str(base_image_archive()), tag)
        return self.image_id(tag)

    def make_notebook_image(self, base: str, tag: str, packages: str = "jupyterhub jupyter-server") -> str:
        """An image in which ``jupyterhub-singleuser`` runs as jovyan (1000); its id."""
        return self.build(
            tag,
            f"""FROM {base}
RUN python3 -m venv /opt/notebook && /opt/notebook/bin/pip install --quiet --no-cache-dir uv && \
    /opt/notebook/bin/uv pip install --quiet --no-cache --python /opt/notebook/bin/python {packages} && \
    useradd --create-home --uid 1000 jovyan
ENV PATH=/opt/notebook/bin:$PATH
WORKDIR /home/jovyan
USER 1000
""",
        )

    def stop(self, *, signal_number: int = signal.SIGTERM) -> None:
        """End the engine, and with SIGTERM its containers; it can be started again."""
        process, self._process = self._process, None
        if process is None:
            return
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal_number)
        process.wait(60)
        for child in below if signal_number == signal.SIGKILL else []:
            with suppress(psutil.NoSuchProcess):
                child.kill()

    def close(self) -> None:
        """End it, and remove all that it made on this machine."""
        if self._process is not None and self._process.poll() is None:
            for container in self.containers():
                self.docker("rm", "--force", "--volumes", container["ID"], check=False)
        self.stop()
        if self.with_network:
            for command in (
                f"iptables -t nat -D POSTROUTING {self._masquerade}",
                f"iptables -D FORWARD -i {self.bridge} -j ACCEPT",
                f"iptables -D FORWARD -o {self.bridge} -j ACCEPT",
                f"ip link del {self.bridge}",
            ):
                subprocess.run(command.split(), check=False, capture_output=True, env={"PATH": _PATH})
        mounts = [part.mountpoint for part in psutil.disk_partitions(all=True)]
        for mount in sorted((one for one in mounts if one.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(("umount", "--lazy", mount), check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
