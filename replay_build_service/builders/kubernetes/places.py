"""Where things lie in a build pod: what the pod's specification mounts, and its runner finds. Standard library only."""

FOLDER = "/build/job"
"""The build's folder (`builders.detached.folder`); its volume is ``/build``."""

BUILD_VOLUME = "/build"
LOG_FILE = f"{FOLDER}/log.jsonl"

TOLD = "/replay/told"
"""What the service tells the runner: the pod's annotations as files."""

INSTRUCTIONS_FILE = f"{TOLD}/job.json"
CONFIGURATION_FILE = f"{TOLD}/repo2docker_config.py"

CREDENTIALS = "/replay/credentials"
"""With ``config.json``, from the Secret of whoever may push."""

AUTHORITIES = "/replay/authorities"
AUTHORITIES_FILE = f"{AUTHORITIES}/ca.crt"

PRIVATE = "/replay/private"
"""What the builder alone may read: the account of whoever may push, narrowed to the registry."""

ENGINE = "/replay/engine"
"""The folder with the engine's socket."""

ENGINE_DATA = "/replay/engine-data"

TERMINATION_FILE = "/dev/termination-log"
