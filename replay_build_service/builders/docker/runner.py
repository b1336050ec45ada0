"""The detached process that builds an image: ``python -m replay_build_service.builders.docker.runner FOLDER``."""

import sys
from pathlib import Path

from replay_build_service.builders.detached.folder import BuildFolder
from replay_build_service.builders.detached.log import LogWriter
from replay_build_service.builders.detached.runner import Steps, main


def make_steps(folder: BuildFolder, log: LogWriter) -> Steps:
    """What this build does, by its instructions."""
    from replay_build_service.builders.docker.steps import ImageSteps

    return ImageSteps.of(folder, log)


if __name__ == "__main__":
    sys.exit(main(BuildFolder(Path(sys.argv[1])), make_steps))
