"""What an admin says of DataHub in sessions: which one, and the sidecar that mounts it."""

from __future__ import annotations

import re
from typing import Any, cast
from urllib.parse import urlsplit

from traitlets import Bool, Dict, Float, Int, List, Unicode, validate

from replay_spawner.features.base import Feature
from replay_spawner.features.datahub import pods

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class DataHubSettings(Feature):
    """The settings of `DataHub`."""

    onezone_url = Unicode(
        "https://datahub.egi.eu",
        config=True,
        help="The Onezone. Plain ``http:`` is taken for loopback alone.",
    )
    oneprovider = Unicode(
        config=True,
        help="Host of the Oneprovider whose spaces sessions get, with a port where it is not 443. Required.",
    )
    ca_file = Unicode(
        config=True,
        help="Certificates (PEM) by which Onezone and Oneprovider are known, where these are of a site's own authority.",
    )
    read_only = Bool(False, config=True, help="Whether sessions may only read.")
    token_life = Float(
        3600.0,
        min=600.0,
        config=True,
        help="Seconds that a session's token for REST lives; it is renewed after half of it.",
    )
    mount_token_life = Float(
        86_400.0,
        min=3600.0,
        config=True,
        help="""Seconds that a sidecar's token lives. It is renewed after half of it, and then the spaces are mounted anew:
        files that are open there at that moment have to be opened again. Onezone allows a week unless its admin says otherwise.
        """,
    )
    token_folder = Unicode(
        "/var/run/secrets/egi.eu", config=True, help="Where the token's file for REST is in sessions."
    )
    request_timeout = Float(4.0, min=0.1, config=True, help="Seconds for each request to the DataHub.")
    timeout = Float(11.0, min=0.1, max=12.0, config=True, help="Seconds for all that is asked before a session starts.")
    most_spaces = Int(200, min=1, config=True, help="How many spaces a session gets at most.")

    sidecar_image = Unicode(
        "docker.io/onedata/oneclient:21.02.5",
        config=True,
        help="""Image with ``oneclient`` and ``/bin/sh``, of your Oneprovider's release. Empty: nothing is mounted, also not
        where sessions are pods, and spaces are reached by REST as elsewhere.
        """,
    )
    sidecar_pull_policy = Unicode("IfNotPresent", config=True, help="``imagePullPolicy`` of the sidecar.")
    sidecar_command = List(
        Unicode(),
        default_value=["oneclient", "-f", "-o", "allow_other", "-H", "{oneprovider}", "{spaces}", "{mount}"],
        config=True,
        help="""What mounts the spaces, in the foreground, with the token in ``ONECLIENT_ACCESS_TOKEN``. ``{spaces}`` stands for
        ``--space-id ID`` of each space, ``{mount}`` for the folder.
        """,
    )
    sidecar_resources = Dict(
        default_value={"requests": {"cpu": "10m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        config=True,
        help="``resources`` of the sidecar. ``oneclient`` buffers in memory what is read and written.",
    )
    sidecar_security_context = Dict(
        default_value={"privileged": True},
        config=True,
        help="``securityContext`` of the sidecar. Kubernetes lets privileged containers alone hand on what they mount.",
    )
    sidecar_propagates = Bool(
        True,
        config=True,
        help="Whether the sidecar's mount is handed on. Off for one that fills a folder instead of mounting, and so needs no privileges.",
    )

    @validate("onezone_url")
    def _validate_url(self, proposal: Any) -> str:
        url = str(proposal.value).rstrip("/")
        parts = urlsplit(url)
        is_secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        if not is_secure or not _HOST.fullmatch(parts.netloc) or parts.path or parts.query or parts.fragment:
            raise ValueError(
                f"“{proposal.value}” is no address of a Onezone: https://HOST, for instance https://datahub.egi.eu"
            )
        return url

    @validate("oneprovider")
    def _validate_provider(self, proposal: Any) -> str:
        if proposal.value and not _HOST.fullmatch(proposal.value):
            raise ValueError(f"“{proposal.value}” is no host of a Oneprovider: provider.example.org, without https://")
        return proposal.value

    @property
    def sidecar(self) -> pods.Sidecar:
        """The admin's settings for it."""
        return pods.Sidecar(
            image=self.sidecar_image,
            pull_policy=self.sidecar_pull_policy,
            command=self.sidecar_command,
            resources=cast("dict[str, Any]", self.sidecar_resources),
            security_context=cast("dict[str, Any]", self.sidecar_security_context),
            is_propagated=self.sidecar_propagates,
        )
