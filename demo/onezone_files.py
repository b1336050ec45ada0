"""The files of the stand-in's Oneprovider: spaces as trees in memory, by the calls of Oneprovider's REST API.

Those that ``onedatarestfsspec`` makes: finding a file, what is known of it, listing, reading, writing, removing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from flask import Blueprint, Response, request

from demo.onezone_controls import PROVIDER, Controls, Space
from demo.onezone_tokens import Bearer, Refused, Tokens

_STARTED = int(time.time())


def file_calls(controls: Controls, tokens: Tokens) -> Blueprint:
    """Below ``/api/v3/oneprovider``."""
    calls = Blueprint("files", __name__, url_prefix="/api/v3/oneprovider")

    def asking() -> Bearer:
        return tokens.rest_bearer(request.headers.get("X-Auth-Token"))

    def writing() -> Bearer:
        bearer = asking()
        if bearer.is_read_only:
            raise Refused(401, "tokenCaveatUnverified", "The token allows reading only.")
        return bearer

    def found(bearer: Bearer, file_id: str) -> tuple[Space, str]:
        space_id, _, path = file_id.partition("~")
        space = controls.space(bearer.person, space_id)
        if space is None or PROVIDER not in space.providers:
            raise Refused(404, "notFound", "There is no such space here.")
        path = bytes.fromhex(path).decode()
        if path and path not in space.files and not _is_folder(space, path):
            raise Refused(400, "posix", "The operation failed with POSIX error: enoent.")
        return space, path

    @calls.post("/lookup-file-id/<path:path>")
    def look_up(path: str) -> Any:
        name, _, inside = unquote(path).partition("/")
        bearer = asking()
        space = _named(controls, bearer, name)
        file_id = _id_of(space, inside.strip("/"))
        found(bearer, file_id)
        return {"fileId": file_id}

    @calls.get("/data/<file_id>")
    def attributes(file_id: str) -> Any:
        return _attributes(*found(asking(), file_id))

    @calls.get("/data/<file_id>/children")
    def children(file_id: str) -> Any:
        space, folder = found(asking(), file_id)
        start, limit = int(request.args.get("token", "0")), int(request.args.get("limit", "1000"))
        names = _children(space, folder)
        page = [_attributes(space, f"{folder}/{name}".lstrip("/")) for name in names[start : start + limit]]
        is_last = start + limit >= len(names)
        return {"children": page, "isLast": is_last, "nextPageToken": None if is_last else str(start + limit)}

    @calls.get("/data/<file_id>/content")
    def read(file_id: str) -> Any:
        space, path = found(asking(), file_id)
        response = Response(space.files[path], mimetype="application/octet-stream")
        return response.make_conditional(request, accept_ranges=True, complete_length=len(space.files[path]))

    @calls.put("/data/<file_id>/content")
    def write(file_id: str) -> Any:
        space, path = found(writing(), file_id)
        offset = request.args.get("offset")
        before = space.files[path][: int(offset)] if offset is not None else b""
        space.files[path] = before + request.get_data()
        return "", 204

    @calls.put("/data/<space_id>/path/<path:path>")
    def create(space_id: str, path: str) -> Any:
        space, _ = found(writing(), space_id)
        if path in space.files or _is_folder(space, path):
            raise Refused(400, "posix", "The operation failed with POSIX error: eexist.")
        space.files[f"{path}/.keep" if request.args.get("type") == "DIR" else path] = b""
        return {"fileId": _id_of(space, path)}, 201

    @calls.delete("/data/<file_id>")
    def remove(file_id: str) -> Any:
        space, path = found(writing(), file_id)
        for name in [name for name in space.files if name == path or name.startswith(f"{path}/")]:
            del space.files[name]
        return "", 204

    # Flask knows these by their registration alone.
    _ = (look_up, attributes, children, read, write, create, remove)
    return calls


def _named(controls: Controls, bearer: Bearer, name: str) -> Space:
    """By its name, or as ``name@id``."""
    spaces = controls.spaces_of(bearer.person)
    space = next((one for one in spaces if f"{one.name}@{one.id}" == name), None)
    space = space or next((one for one in spaces if one.name == name), None)
    if space is None:
        raise Refused(400, "posix", "The operation failed with POSIX error: enoent.")
    return space


def _id_of(space: Space, path: str) -> str:
    return f"{space.id}~{path.encode().hex()}" if path else space.id


def _is_folder(space: Space, path: str) -> bool:
    return any(name.startswith(f"{path}/") for name in space.files)


def _children(space: Space, folder: str) -> list[str]:
    below = f"{folder}/" if folder else ""
    names = {name.removeprefix(below).partition("/")[0] for name in space.files if name.startswith(below)}
    return sorted(names - {".keep"})


def _attributes(space: Space, path: str) -> Mapping[str, Any]:
    is_file = path in space.files
    return {
        "fileId": _id_of(space, path),
        "name": path.rpartition("/")[2] or space.name,
        "type": "REG" if is_file else "DIR",
        "size": len(space.files[path]) if is_file else 0,
        "mtime": _STARTED,
        "atime": _STARTED,
        "ctime": _STARTED,
        "posixPermissions": "664" if is_file else "775",
    }
