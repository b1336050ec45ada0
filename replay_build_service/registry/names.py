"""The names that go into a registry's URLs: repositories, tags, digests. What does not fit the grammar goes nowhere.

The grammar is that of the OCI distribution specification, “Pulling manifests”. None of its characters has a meaning in a
URL's path but the slash between a repository's components, and no component can be ``.`` or ``..``.
"""

import hashlib
import re

DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
"""The digests that Replay computes and accepts. The grammar has more algorithms; images are addressed with this one."""

LONGEST_REPOSITORY = 255
"""Characters; many registries take no more, the specification says."""

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


def is_digest(reference: str) -> bool:
    """Whether a reference is a digest; any other is a tag."""
    return DIGEST.fullmatch(reference) is not None


def digest_of(content: bytes) -> str:
    """The digest by which a registry knows these bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def manifest_path(repository: str, reference: str) -> str:
    """Where a manifest lies (end-3). Raises `ValueError` for what is no repository, and neither tag nor digest."""
    if not (is_digest(reference) or _TAG.fullmatch(reference)):
        raise ValueError(f"{reference[:150]!r} is neither a tag nor a sha256 digest.")
    return f"/v2/{_checked(repository)}/manifests/{reference}"


def blob_path(repository: str, digest: str) -> str:
    """Where a blob lies (end-2). Raises `ValueError` for what is no repository or no digest."""
    if not is_digest(digest):
        raise ValueError(f"{digest[:150]!r} is no sha256 digest.")
    return f"/v2/{_checked(repository)}/blobs/{digest}"


def uploads_path(repository: str) -> str:
    """Where the upload of a blob begins (end-4a). Raises `ValueError` for what is no repository."""
    return f"/v2/{_checked(repository)}/blobs/uploads/"


def _checked(repository: str) -> str:
    if len(repository) > LONGEST_REPOSITORY or not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"{repository[:150]!r} is no name of a repository of images.")
    return repository
