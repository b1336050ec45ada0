"""The service itself: whether it answers, and whether it and the spawner hold the same token."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

from replay_build_service.doctor.asking import NoAnswer, fetch
from replay_build_service.doctor.deployment import Deployment
from replay_build_service.doctor.verdicts import Verdict, failed, not_known, ok
from replay_build_service.kept_secrets import UnusableSecret, kept_secret

_OF_OTHERS = stat.S_IWGRP | stat.S_IRWXO
"""A group may read the token: that of a pod's own account often has to."""

_VOLUME = "..data"
"""What marks a folder as a volume of a pod, where nobody else is."""

_NOWHERE = not_known(
    "Neither the configuration nor the environment says where the service answers.",
    "Set c.ReplayMixin.replay_service_url in the configuration that this reads.",
)


async def check_service(deployment: Deployment) -> Verdict:
    """Whether the service answers, and its database answers it."""
    url = deployment.service_url
    if not url:
        return _NOWHERE
    try:
        answer = await fetch(f"{url}health")
    except NoAnswer as reason:
        return failed(
            f"The build service does not answer at {url}: {reason}.",
            "See that it runs: the hub's log (on Kubernetes the service's own) says why it ended or does not start. If it "
            "runs, set c.ReplayMixin.replay_service_url to where.",
        )
    match answer.status:
        case 200:
            return ok(f"The build service answers at {url}.")
        case 503:
            return failed(f"The build service at {url} says that its database does not answer.", "See its log.")
        case status:
            return failed(
                f"What answers at {url} is not the build service ({status}).",
                "Set c.ReplayMixin.replay_service_url to the service's address with its prefix, such as /services/replay/.",
            )


async def check_token(deployment: Deployment) -> Verdict:
    """Whether the file with the shared token is private, and the running service takes what it holds."""
    file = deployment.spawner_token_file
    token = await asyncio.to_thread(_read, file)
    if isinstance(token, Verdict):
        return token
    if not deployment.service_url:
        return _NOWHERE
    try:
        # Nothing is named, so that there is no plan to give: the token is looked at first, and only then the question.
        answer = await fetch(
            f"{deployment.service_url}internal/plan",
            method="POST",
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            content=b"{}",
        )
    except NoAnswer as reason:
        return not_known(
            f"{file} holds a token; the service does not answer whether it is the right one: {reason}.",
            "First see that the service runs.",
        )
    match answer.status:
        case 400:
            return ok(f"The service takes the token of {file}.")
        case 401:
            return failed(
                f"The running service does not take the token of {file}, so that no session starts.",
                "Name one file in c.ReplayBuildService.token_file, c.ReplayMixin.replay_token_file and link_handlers; if that "
                "is so, the file was replaced since: restart the service.",
            )
        case status:
            return failed(
                f"What answers at {deployment.service_url} is not the build service ({status}).",
                "Set c.ReplayMixin.replay_service_url to the service's address with its prefix, such as /services/replay/.",
            )


def _read(file: Path) -> str | Verdict:
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            return failed(
                f"{file} is no file.", "Name the file with the service's token in c.ReplayMixin.replay_token_file."
            )
        if mode & _OF_OTHERS and not (file.parent / _VOLUME).exists():
            return failed(
                f"Others than the service may read or change {file} (mode {stat.S_IMODE(mode):o}).",
                f"chmod 600 {file}; where strangers have accounts here, also remove it and restart service and hub, which "
                "makes a new one.",
            )
        kept_secret(file)
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return failed(
            f"There is no {file}, in which the service keeps the token that it shares with the spawner.",
            "Start the service, which makes it; if it runs, c.ReplayBuildService.token_file and "
            "c.ReplayMixin.replay_token_file name different files.",
        )
    except UnusableSecret as error:
        return failed(str(error), "Then restart the service and the hub.")
    except OSError as error:
        return failed(
            f"{file} cannot be read: {error.strerror}.",
            "Let the accounts of hub and service read it, and run this as one of them.",
        )
