"""What a registry's documents say: manifests, indexes, image configurations, errors. Pure, and nothing in them is trusted.

The forms are those of the OCI image specification 1.1 (https://github.com/opencontainers/image-spec: manifest.md,
image-index.md, config.md) and of Docker's image manifest version 2, schema 2, which differ in their media types alone.
"""

import json
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from replay_build_service.domain import ImageConfiguration
from replay_build_service.image_labels import TOP_LEVEL, top_level_in
from replay_build_service.registry.faults import RegistryFault, misunderstood

MANIFEST_LIMIT = 4 * 2**20
"""Bytes of a manifest or an index: what the distribution specification asks registries to take at least."""
CONFIGURATION_LIMIT = 4 * 2**20
"""Bytes of an image configuration; those of large images have some tens of thousands."""
MAX_MEMBERS = 100_000
"""Commas and opening brackets of a document, which bound what it becomes in memory, and for how long reading it takes."""
MAX_LAYERS = 500
"""No engine mounts more; Docker's limit is 127."""
MAX_ENTRIES = 1000
"""Images in one index."""
MAX_STRINGS = 4096
"""Variables, arguments or ports of a configuration."""
LONGEST_STRING = 128 * 1024
"""Characters of an argument or a variable: Linux takes no longer one (execve(2), ``MAX_ARG_STRLEN``)."""
LONGEST_PATH = 4096
LONGEST_USER = 256

MANIFEST_TYPES = frozenset(
    {"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json"}
)
INDEX_TYPES = frozenset(
    {"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json"}
)
CONFIGURATION_TYPES = frozenset(
    {"application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json"}
)
ACCEPTED = ", ".join(sorted(MANIFEST_TYPES) + sorted(INDEX_TYPES))
"""Without all four a registry hides an image of the other family, or converts it to one with another digest."""

_NOT_FOUND_CODES = frozenset({"BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"})
"""The distribution specification's, “Error codes”, and Harbor's."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One compressed layer of an image, as its manifest names it."""

    digest: str
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image of one platform."""

    digest: str
    """``sha256:…`` of the manifest's own bytes, which the registry's ``Docker-Content-Digest`` does not contradict."""
    media_type: str
    config_digest: str
    """Of the image configuration: the id that an engine gives the image."""
    layers: tuple[Layer, ...]
    config_size: int
    """In bytes."""
    index_digest: str | None = None
    """Of the index that led to this image; ``None`` where the reference named the image itself."""

    @property
    def size(self) -> int:
        """Bytes of all layers, compressed: what a node fetches."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One manifest that an index names."""

    digest: str
    size: int
    """In bytes."""
    platform: str
    """``linux/amd64``; empty where the index does not say."""


@dataclass(frozen=True, slots=True)
class Index:
    """One name for the images of several platforms; Docker calls it a manifest list."""

    digest: str
    entries: tuple[IndexEntry, ...]

    def entry_for(self, platform: str) -> IndexEntry:
        """The first entry of that platform, as engines choose. Raises `RegistryFault` where there is none."""
        for entry in self.entries:
            if entry.platform == platform:
                return entry
        raise RegistryFault(
            f"This image was not made for the machines here ({platform}). Build it anew, or use another image."
        )


# ---- the documents as they come


def _argument(text: str) -> str:
    """Text that a process can be started with."""
    if "\0" in text:
        raise ValueError("holds a zero byte")
    text.encode()  # a UnicodeError, so a ValueError, for half of a surrogate pair
    return text


_String = Annotated[str, StringConstraints(max_length=LONGEST_STRING), AfterValidator(_argument)]
_Strings = Annotated[list[_String], Field(max_length=MAX_STRINGS)]
_Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[a-f0-9]{64}$")]
_MediaType = Annotated[str, StringConstraints(max_length=255)]
_Size = Annotated[int, Field(ge=0, lt=2**63)]


class _Model(BaseModel):
    """Reads an object exactly as the engines do, or not at all.

    They are written in Go, whose JSON reader takes ``user`` for ``User``. A document with both would tell them one thing
    and us another, so no other spelling of a known name is taken.
    """

    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)

    @model_validator(mode="after")
    def _has_one_spelling(self) -> Self:
        names = {(known.alias or name).casefold() for name, known in type(self).model_fields.items()}
        if any(name.casefold() in names for name in self.model_extra or {}):
            raise ValueError("a name in another spelling")
        return self


class _PlatformModel(_Model):
    os: str = ""
    architecture: str = ""


class _DescriptorModel(_Model):
    media_type: _MediaType = Field(alias="mediaType")
    digest: _Digest
    size: _Size
    platform: _PlatformModel | None = None


class _ManifestModel(_Model):
    """It may not look like an index too, or two readers could take it for two things (CVE-2021-41190)."""

    schema_version: Literal[2] = Field(alias="schemaVersion")
    media_type: _MediaType | None = Field(None, alias="mediaType")
    config: _DescriptorModel
    layers: Annotated[list[_DescriptorModel], Field(max_length=MAX_LAYERS)]
    manifests: None = None


class _IndexModel(_Model):
    schema_version: Literal[2] = Field(alias="schemaVersion")
    media_type: _MediaType | None = Field(None, alias="mediaType")
    manifests: Annotated[list[_DescriptorModel], Field(max_length=MAX_ENTRIES)]
    config: None = None
    layers: None = None


class _RunModel(_Model):
    user: Annotated[str, StringConstraints(max_length=LONGEST_USER), AfterValidator(_argument)] | None = Field(
        None, alias="User"
    )
    working_dir: Annotated[str, StringConstraints(max_length=LONGEST_PATH), AfterValidator(_argument)] | None = Field(
        None, alias="WorkingDir"
    )
    environment: _Strings | None = Field(None, alias="Env")
    entrypoint: _Strings | None = Field(None, alias="Entrypoint")
    command: _Strings | None = Field(None, alias="Cmd")
    exposed_ports: Annotated[dict[_String, Any], Field(max_length=MAX_STRINGS)] | None = Field(
        None, alias="ExposedPorts"
    )
    labels: dict[str, Any] | None = Field(None, alias="Labels")


class _ConfigurationModel(_Model):
    config: _RunModel | None = None


class _ErrorModel(BaseModel):
    code: str


class _ErrorsModel(BaseModel):
    errors: Annotated[list[_ErrorModel], Field(max_length=100)]


_ModelType = TypeVar("_ModelType", bound=BaseModel)
_Pairs: TypeAlias = list[tuple[str, Any]]


def _each_name_once(pairs: _Pairs) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        # Readers differ in which of the two they take.
        raise ValueError("a name twice")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def read(model: type[_ModelType], text: bytes | str) -> _ModelType:
    """An object of JSON (RFC 8259, in UTF-8, with no name twice). Raises `PassingFault`, which holds nothing of the text."""
    try:
        decoded = text if isinstance(text, str) else text.decode()
        if sum(map(decoded.count, ",[{")) > MAX_MEMBERS:
            raise ValueError("too many members")
        value = json.loads(decoded, object_pairs_hook=_each_name_once, parse_constant=_no_constant)
        return model.model_validate(value)
    except (ValueError, RecursionError) as error:  # ValidationError and JSONDecodeError are ValueErrors
        # What the reader says of the text may quote it, and the text may be a token.
        raise misunderstood(f"no {model.__name__.strip('_')}: {_where(error)}") from None


def _where(error: Exception) -> str:
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{found['type']}, {error.error_count()} in all"
    return type(error).__name__


# ---- what they say


def parse_manifest(text: bytes, media_type: str, digest: str) -> Manifest | Index:
    """What lies at a manifest's address, by the media type that the registry gave it. Raises `RegistryFault`."""
    if media_type in MANIFEST_TYPES:
        manifest = read(_ManifestModel, text)
        _same_type(manifest.media_type, media_type)
        if manifest.config.media_type not in CONFIGURATION_TYPES:
            raise RegistryFault("The image registry has something else than an image under this name.", "no image")
        layers = tuple(Layer(layer.digest, layer.size) for layer in manifest.layers)
        return Manifest(digest, media_type, manifest.config.digest, layers, manifest.config.size)
    if media_type in INDEX_TYPES:
        index = read(_IndexModel, text)
        _same_type(index.media_type, media_type)
        return Index(digest, tuple(_entry(entry) for entry in index.manifests))
    raise misunderstood("neither a manifest nor an index")


def _same_type(written: str | None, told: str) -> None:
    # OCI image specification, manifest.md: where a document says its own type, it has to be the one it came as.
    if written is not None and written != told:
        raise misunderstood("a manifest with two media types")


def _entry(descriptor: _DescriptorModel) -> IndexEntry:
    platform = descriptor.platform
    named = platform is not None and platform.os and platform.architecture
    return IndexEntry(
        descriptor.digest, descriptor.size, f"{platform.os}/{platform.architecture}" if platform and named else ""
    )


def of_index(manifest: Manifest, index: Index) -> Manifest:
    """The same image, with the index that led to it."""
    return replace(manifest, index_digest=index.digest)


def parse_configuration(text: bytes | str) -> ImageConfiguration:
    """How an image wants to be run (OCI image specification, config.md; Docker's is the same).

    What the image leaves out, or sets to null, is empty. Paths are as the image has them: absolute or not, with or
    without ``..``. Raises `RegistryFault` for another form, for a name that is there twice or in two spellings, for text
    that no process could be started with, and for more than ``CONFIGURATION_LIMIT`` bytes.
    """
    if len(text) > CONFIGURATION_LIMIT:
        raise misunderstood("a configuration too long")
    run = read(_ConfigurationModel, text).config
    if run is None:
        return ImageConfiguration()
    # Of a variable that is set twice a process sees the last.
    variables = dict(entry.split("=", 1) for entry in run.environment or () if "=" in entry)
    return ImageConfiguration(
        user=run.user or "",
        working_dir=run.working_dir or "",
        home=variables.get("HOME") or None,
        entrypoint=tuple(run.entrypoint or ()),
        command=tuple(run.command or ()),
        exposed_ports=tuple(run.exposed_ports or ()),
        top_level=top_level_in((run.labels or {}).get(TOP_LEVEL)),
    )


def says_not_found(text: bytes) -> bool:
    """Whether this is a registry's own word that there is no such image, and not a page of something before it."""
    return bool(_NOT_FOUND_CODES & _codes(text))


def says_unsupported(text: bytes) -> bool:
    """Whether this is a registry's own word that it does not do such a thing."""
    return "UNSUPPORTED" in _codes(text)


def _codes(text: bytes) -> frozenset[str]:
    try:
        return frozenset(error.code for error in read(_ErrorsModel, text).errors)
    except RegistryFault:
        return frozenset()
