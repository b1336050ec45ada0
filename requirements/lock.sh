#!/bin/sh
# Resolve anew what is pinned here. Run from the project's root, with uv on the PATH.
set -eu
lock() { out=$1; shift; uv pip compile pyproject.toml "$@" --universal --generate-hashes --no-emit-index-url --no-header \
  --python-version 3.11 --quiet --output-file "requirements/$out.txt"; }
lock dev --extra docker --extra kubernetes --group test
lock demo --extra docker --group demo --constraint requirements/dev.txt
uv pip compile --group uv --universal --generate-hashes --no-header --python-version 3.11 --quiet --constraint requirements/dev.txt --output-file requirements/uv.txt
uv pip compile --group node --universal --generate-hashes --no-header --python-version 3.11 --quiet --output-file requirements/node.txt
lock hub55 requirements/hub55.in --extra docker --extra kubernetes --group test
# The images of the chart. Zero to JupyterHub has JupyterHub 5.
lock kubernetes requirements/hub55.in --extra kubernetes --constraint requirements/hub55.txt
uv pip compile --group build --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --quiet --constraint requirements/dev.txt --output-file requirements/build.txt
