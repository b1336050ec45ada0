"""Two images that need no engine to be made: the one that holds a pod together, and one with a few small programs."""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.binaries import kubernetes_programs, program
from tests.registry_server import DOCKER, RegistryServer

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _layer(files: Mapping[str, Path], links: Mapping[str, str] | None = None, folders: tuple[str, ...] = ()) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in folders:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            archive.addfile(folder)
        for name, path in files.items():
            program_file = tarfile.TarInfo(name)
            program_file.size, program_file.mode = path.stat().st_size, 0o755
            with path.open("rb") as content:
                archive.addfile(program_file, content)
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    return made.getvalue()


def write_pause_image(archive: Path, name: str) -> None:
    """As ``docker save`` writes it."""
    layer = _layer({"pause": kubernetes_programs() / "pause"})
    configuration = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    contents = {"config.json": configuration, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(archive, "w") as written:
        for file, content in contents.items():
            entry = tarfile.TarInfo(file)
            entry.size = len(content)
            written.addfile(entry, io.BytesIO(content))


def push_small_image(registry: RegistryServer, repository: str = "small") -> str:
    """Push an image with busybox, 2 MB, for pods that only have to be there; returns ``host/repository@sha256:…``."""
    busybox = program("busybox")
    names = subprocess.run((busybox, "--list"), capture_output=True, text=True, check=True).stdout.split()
    links = {f"bin/{name}": "busybox" for name in names if name != "busybox"}
    layer = _layer({"bin/busybox": Path(busybox)}, links, ("bin", "tmp", "etc"))
    configuration = {"Env": [f"PATH={_PATH}"], "Cmd": ["sleep", "1000000"]}
    image = registry.push_image(repository, "1", family=DOCKER, configuration=configuration, layers=[layer])
    return f"{registry.settings().host}/{repository}@{image.digest}"
