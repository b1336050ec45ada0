"""The database: there, of this version's schema, and open to writing."""

from __future__ import annotations

from replay_build_service.db import NewerSchema, OldSchema, UnusableDatabase, inspect_database, shown_url
from replay_build_service.doctor.deployment import Deployment
from replay_build_service.doctor.verdicts import Verdict, failed, ok


async def check_database(deployment: Deployment) -> Verdict:
    """Nothing is made and nothing changed."""
    try:
        revision = await inspect_database(deployment.database_url, deployment.upgrade_command)
        return ok(f"{shown_url(deployment.database_url)} is at revision {revision}, this version's, and takes writes.")
    except (OldSchema, NewerSchema) as error:
        sentence, _, remedy = str(error).partition(". ")
        return failed(f"{sentence}.", remedy)
    except UnusableDatabase as error:
        return failed(
            str(error),
            "See that c.ReplayBuildService.db_url is right and that the service's account may use the database.",
        )
