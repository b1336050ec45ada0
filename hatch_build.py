"""What packaging must not forget: the scripts of the pages and of JupyterLab's extension, which Node makes and git does not keep."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MADE = (
    *(f"replay_build_service/web/static/dist/{name}" for name in ("launch.js", "share.js", "xterm.css")),
    "replay_spawner/lab/labextensions/replay-session/session.js",
)


class PagesAreThere(BuildHookInterface):
    """Fails a wheel or a source distribution without them; an editable installation comes before they are made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        missing = [name for name in MADE if not Path(self.root, name).is_file()]
        if version != "editable" and missing:
            self.app.abort(
                f"there is no {', '.join(missing)}: make them first, with “make test-quick” or “npm run build”."
            )
