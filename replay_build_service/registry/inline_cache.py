"""What BuildKit's inline cache in an image's configuration says of its layers. Pure.

The format is BuildKit's own (``cache/remotecache/v1``): records of steps, some with the layer that the step made. An image
made from what another engine had built lacks these: its steps were taken over, and only those made here are told of.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from replay_build_service.domain import InlineCache

_MOST = 10_000


class _Layer(BaseModel):
    layer: int


class _Record(BaseModel):
    layers: list[_Layer] = []


class _RootFS(BaseModel):
    diff_ids: Annotated[list[str], Field(max_length=_MOST)] = []


class _Configuration(BaseModel):
    rootfs: _RootFS = _RootFS()
    cache: str | None = Field(None, alias="moby.buildkit.cache.v0")


_RECORDS = TypeAdapter(Annotated[list[_Record], Field(max_length=_MOST)])


def parse_inline_cache(text: bytes) -> InlineCache:
    """Of an image's configuration; nothing is reusable where it tells nothing, or nothing that can be understood."""
    try:
        told = _Configuration.model_validate_json(text)
        records = _RECORDS.validate_json(base64.b64decode(told.cache, validate=True)) if told.cache else []
    except (ValidationError, binascii.Error):
        return InlineCache((), frozenset())
    chain = _chain(told.rootfs.diff_ids)
    made = {layer.layer for record in records for layer in record.layers}
    return InlineCache(chain, frozenset(chain[number] for number in made if 0 <= number < len(chain)))


def _chain(diff_ids: list[str]) -> tuple[str, ...]:
    """For each layer a name of it and all below it, as the ChainID of OCI's image specification is one."""
    names: list[str] = []
    for diff_id in diff_ids:
        below = names[-1] if names else ""
        names.append(hashlib.sha256(json.dumps([below, diff_id]).encode()).hexdigest())
    return tuple(names)
