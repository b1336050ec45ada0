"""What a build pod runs: ``python3 -m replay_build_service.builders.kubernetes.runner``.

The build itself is the same detached process as on a machine with an engine. This one is the container's first process:
it lays out the build's folder from what the pod brings, waits, and leaves the outcome as the container's last word.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from replay_build_service.builders.detached.failures import INTERNAL
from replay_build_service.builders.detached.folder import BuildFolder, write_whole
from replay_build_service.builders.docker.credentials import narrowed_config
from replay_build_service.builders.docker.instructions import Instructions
from replay_build_service.builders.kubernetes import places
from replay_build_service.domain import BuildFailure, FailureReason

_RUNNER = "replay_build_service.builders.docker.runner"

_MUCH = 1500
"""Characters of a sentence. A termination message may have 4096 bytes."""

OUT_OF_MEMORY = BuildFailure(
    FailureReason.MEMORY,
    "The program that directs the build was killed, most likely because it ran out of memory. If the repository is very "
    "large, make it smaller; otherwise tell the administrators.",
)


def main() -> int:
    """Runs the build to its end. The status is 0 where it made an image, or else 1."""
    folder = BuildFolder(Path(places.FOLDER))
    environment = lay_out(folder)
    with folder.runner_output.open("ab") as output:
        child = subprocess.Popen(
            (sys.executable, "-m", _RUNNER, str(folder.path)), env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )  # fmt: skip

    def hand_on(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    # The first process of a container is sent nothing that it does not ask for.
    signal.signal(signal.SIGTERM, hand_on)
    status = child.wait()
    outcome = folder.read_exit()
    if outcome is None:
        sys.stderr.write(folder.runner_output.read_text(errors="replace"))
        outcome = OUT_OF_MEMORY if status == -signal.SIGKILL else INTERNAL
    Path(places.TERMINATION_FILE).write_text(last_word(outcome), encoding="utf-8")
    return 1 if isinstance(outcome, BuildFailure) else 0


def last_word(outcome: str | BuildFailure) -> str:
    """As `builders.kubernetes.states` reads it."""
    if isinstance(outcome, str):
        return json.dumps({"digest": outcome})
    return json.dumps({"reason": outcome.reason, "message": outcome.message[:_MUCH]}, ensure_ascii=False)


def lay_out(folder: BuildFolder) -> dict[str, str]:
    """Writes what the build is told into its folder; returns its environment. Raises `OSError`."""
    instructions = Instructions.from_json(Path(places.INSTRUCTIONS_FILE).read_text(encoding="utf-8"))
    for path in (folder.path, folder.home, folder.temporary):
        path.mkdir(parents=True, exist_ok=True)
    docker_config = Path(places.PRIVATE, "docker")
    docker_config.mkdir(exist_ok=True, mode=0o700)
    host = instructions.image.partition("/")[0]
    write_whole(docker_config / "config.json", narrowed_config(Path(places.CREDENTIALS, "config.json"), host))
    write_whole(folder.instructions, instructions.to_json())
    authorities = {"SSL_CERT_FILE": places.AUTHORITIES_FILE} if os.path.exists(places.AUTHORITIES_FILE) else {}
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Otherwise a configuration that fails is passed over as a whole, and with it every limit in it.
        "TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR": "1",
        **authorities,
        **instructions.build_arguments,
        "DOCKER_HOST": instructions.engine,
        "DOCKER_CONFIG": str(docker_config),
        "BUILDX_CONFIG": str(folder.temporary / "buildx"),
        "HOME": str(folder.home),
        "TMPDIR": str(folder.temporary),
    }


if __name__ == "__main__":
    sys.exit(main())
