"""How a session runs in an environment that others share and nobody may change.

A server does not run in the shared environment itself but in a small one in the session's own home that stands on it:
``pip install`` then installs into the home, leaves what the image has alone, and what it installed comes first. pip's
``--prefix`` is no way to the same end: with it, an upgrade uninstalls the old version from the shared environment.
"""

from __future__ import annotations

import shlex
from pathlib import Path

_SCRIPT = """\
#!/bin/sh
# Starts a server in an environment in its person's home ($VIRTUAL_ENV), on top of the shared one, which stays as it is.
set -eu
own=$VIRTUAL_ENV
if [ ! -e "$own/pyvenv.cfg" ]; then
    packages=$own/lib/{python}/site-packages
    mkdir -p "$own/bin" "$packages"
    for name in python python3 {python}; do
        ln -sf {interpreter} "$own/bin/$name"
    done
    for name in pip pip3; do
        printf '#!/bin/sh\\nexec "%s/bin/python" -m pip "$@"\\n' "$own" > "$own/bin/$name"
        chmod +x "$own/bin/$name"
    done
    printf '%s\\n' {path_line} > "$packages/_shared_environment.pth"
    printf 'home = %s\\ninclude-system-site-packages = false\\n' {home} > "$own/pyvenv.cfg"
fi
exec "$own/bin/python" -m jupyterhub.singleuser "$@"
"""


def session_start_script(environment: Path, python: str) -> str:
    """A POSIX shell script that starts a server. ``python`` is the name of the folder of packages: ``python3.12``."""
    interpreter = (environment / "bin" / "python").resolve()
    shared = str(environment / "lib" / python / "site-packages")
    return _SCRIPT.format(
        python=python,
        interpreter=shlex.quote(str(interpreter)),
        home=shlex.quote(str(interpreter.parent)),
        path_line=shlex.quote(f"import site; site.addsitedir({shared!r})"),
    )


def session_environment(environment: Path, name: str) -> dict[str, str]:
    """What a session's environment needs. ``{home}`` stands for its home; ``name`` tells one image from another there."""
    own = f"{{home}}/.replay/{name}"
    share = environment / "share" / "jupyter"
    return {
        "VIRTUAL_ENV": own,
        "PATH": f"{own}/bin:{environment}/bin:/usr/local/bin:/usr/bin:/bin",
        # Jupyter looks below the prefix of its interpreter, which is the session's own now.
        "JUPYTER_PATH": str(share),
        "JUPYTER_CONFIG_PATH": str(environment / "etc" / "jupyter"),
        "JUPYTERLAB_DIR": str(share / "lab"),
    }
