"""Whether an image's user can write to its home, by what the engine says of that folder."""

import io
import tarfile
from typing import Any

import pytest
import requests
from docker.errors import NotFound

from replay_spawner.docker.homes import closed, is_closed


def engine_with(kind: bytes | None, *, owner: int, mode: int) -> Any:
    """docker-py's client, as far as it is asked: a home of that kind with a file in it, in chunks as they may come."""

    class Client:
        def get_archive(self, container: str, path: str) -> Any:
            assert (container, path) == ("c0ffee", "/srv/home")
            if kind is None:
                response = requests.Response()
                response.status_code = 404
                raise NotFound("no", response=response)
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as archive:
                home = tarfile.TarInfo("home")
                home.type, home.uid, home.mode = kind, owner, mode
                archive.addfile(home)
                inside = tarfile.TarInfo("home/everybodys")
                inside.uid, inside.mode = 1000, 0o777
                archive.addfile(inside)
            content = packed.getvalue()
            return (content[i : i + 100] for i in range(0, len(content), 100)), {}

    return Client()


@pytest.mark.parametrize(
    ("kind", "owner", "mode", "expected"),
    [
        (tarfile.DIRTYPE, 1000, 0o755, False),
        (tarfile.DIRTYPE, 1000, 0o555, True),
        (tarfile.DIRTYPE, 0, 0o755, True),
        (tarfile.DIRTYPE, 0, 0o775, False),
        (tarfile.DIRTYPE, 0, 0o777, False),
        (tarfile.SYMTYPE, 0, 0o755, False),
        (tarfile.REGTYPE, 0, 0o644, False),
        (None, 0, 0, False),
    ],
)
def test_a_home_is_closed_where_its_owner_and_mode_say_so(
    kind: bytes | None, owner: int, mode: int, expected: bool
) -> None:
    assert is_closed(engine_with(kind, owner=owner, mode=mode), "c0ffee", "/srv/home", 1000) is expected


def test_an_image_that_names_no_home_is_not_asked_about() -> None:
    assert not is_closed(None, "c0ffee", "", 1000)
    assert "/srv/home, cannot be written" in closed("/srv/home")
