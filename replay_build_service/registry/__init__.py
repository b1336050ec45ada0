"""The container registry, as far as Replay asks it: is an image there, as which digest, whole, and how does it run.

It speaks the OCI distribution specification 1.1 (https://github.com/opencontainers/distribution-spec) and its ancestor,
Docker's registry API v2, with no authentication, basic authentication or bearer tokens. What the registry answers is
not trusted: bodies are limited, digests are computed, redirects counted, and credentials go where the specification
sends them and nowhere else.

From the outside in: `client` asks, `authentication` proves who asks, `exchange` carries one request and its answer,
`documents` reads what came, `pushes` what comes of a push, `settings` and `names` check what goes out. An edge: it knows the domain and its errors,
no build, no database and no other edge.
"""

from replay_build_service.registry.client import Registry
from replay_build_service.registry.documents import Layer, Manifest, parse_configuration
from replay_build_service.registry.faults import RegistryFault
from replay_build_service.registry.images import Images
from replay_build_service.registry.settings import RegistrySettings

__all__ = ["Images", "Layer", "Manifest", "Registry", "RegistryFault", "RegistrySettings", "parse_configuration"]
