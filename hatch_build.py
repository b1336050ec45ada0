"""What packaging must not forget: the pages' scripts, which Node makes and git does not keep."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGES = Path("replay_build_service", "web", "static", "dist")
MADE = ("launch.js", "share.js", "xterm.css")


class PagesAreThere(BuildHookInterface):
    """Fails a wheel or a source distribution without them; an editable installation comes before they are made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        missing = [name for name in MADE if not Path(self.root, PAGES, name).is_file()]
        if version != "editable" and missing:
            self.app.abort(
                f"{PAGES} lacks {', '.join(missing)}: make them first, with “make test-quick” or “npm run build”."
            )
