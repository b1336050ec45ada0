"""An example of a feature: a file of readings that is renewed each minute for as long as the session runs.

A real one would ask its community's data service, with a token of the person's from ``self.session.tokens``. What cannot be had
is told with `Unavailable`; the session starts without it.
"""

import csv
import io
import random
import time
from datetime import UTC, datetime

from traitlets import List, Unicode

from replay_spawner.features.base import HOME, Feature, Given, SessionFile, Unavailable

SECONDS = 60.0


class Stations(Feature):
    """Readings of weather stations, in the session's own folder."""

    name = "stations"
    title = "The latest readings of our weather stations"
    explanation = "A file, stations.csv, that is renewed each minute. Nothing of yours is sent anywhere."

    stations = List(Unicode(), ["Abisko", "Jokioinen", "Payerne"], config=True, help="Which stations there are.")

    async def prepare(self) -> Given:
        if not self.stations:
            raise Unavailable("no station is configured.", is_final=True)
        file = SessionFile(
            f"{HOME}/stations", "stations.csv", self._readings(), is_secret=False, variable="STATIONS_FILE"
        )
        environment, again = {"STATIONS": ",".join(self.stations)}, time.time() + SECONDS
        return Given(environment, [file], renew_at=again, notice="They are in stations/stations.csv.")

    def _readings(self) -> bytes:
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["station", "at", "celsius"])
        for station in self.stations:
            table.writerow([station, datetime.now(UTC).isoformat(timespec="seconds"), f"{random.gauss(3, 4):.1f}"])
        return text.getvalue().encode()
