"""The detached process that makes an environment: ``python -m replay_build_service.builders.venv.runner FOLDER``."""

import sys
from pathlib import Path

from replay_build_service.builders.detached.log import LogWriter
from replay_build_service.builders.detached.runner import Steps, main
from replay_build_service.builders.venv.folder import EnvironmentFolder


def make_steps(folder: EnvironmentFolder, log: LogWriter) -> Steps:
    """What this build does, by its instructions."""
    from replay_build_service.builders.venv.steps import EnvironmentSteps

    return EnvironmentSteps.of(folder, log)


if __name__ == "__main__":
    sys.exit(main(EnvironmentFolder(Path(sys.argv[1])), make_steps))
