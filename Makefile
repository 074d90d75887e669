# make run    gateway, worker and notifier in one process on http://127.0.0.1:8080 (PORT= for another)
# make demo   the tour: sign in, dial, subscribe, attach data, see the message
# make unit   the unit tests, which need Python alone (PYTHONS="3.12 3.13" or all: on other versions of it)
# make test   all tests; installs RabbitMQ, Redis, Node, HAProxy, nginx and Chromium from Debian's packages where missing
# make fuzz   every parser of outside input under a fuzzer (TARGET= for one of them, SECONDS= for each; 60)
# make chaos  random faults by seed on real processes (SEED= for the first seed, SEEDS= how many, SECONDS= for each; 30)
# make mutations  breaks calltag on purpose, again and again, and demands that chaos finds it
# make soak   a steady load on real processes: does anything grow? (SECONDS=; 600)
# make compat  the tests with RabbitMQ 4, Redis 8 and Valkey 8 of a newer Debian; writes docs/versions.md; needs root
# make bench  calltag against a naive system, its bare parts and its peers, in ratios (ROUNDS=, ONLY=row,row, FOLDER= for files; .bench)
# make render-chart  the manifests of the Helm chart, with all that needs no operator (VALUES="file ..." instead)
# make check  linters, types, direction of imports, known vulnerabilities, drift of locks and documents
PYTHON ?= python3
PORT ?= 8080
VENV := .venv
BIN := $(VENV)/bin
RUN_READY := $(VENV)/.ready-run
DEV_READY := $(VENV)/.ready-dev
NODE_CLIENTS := tests/clients
NODE_READY := $(NODE_CLIENTS)/node_modules/.ready
PEERS := tests/bench/peers
PEERS_READY := $(PEERS)/node_modules/.ready
PICTURES := docs/pictures
PICTURES_READY := $(PICTURES)/node_modules/.ready

# What tests in ARGS need beside Python: unit tests nothing, those of parts by themselves no clients of npm.
FOLDERS := $(filter tests tests/%,$(ARGS))
BEYOND_UNIT := $(if $(FOLDERS),$(filter-out tests/unit tests/unit/%,$(FOLDERS)),all)
BEYOND_PARTS := $(filter-out tests/contract tests/contract/% tests/integration tests/integration/%,$(BEYOND_UNIT))

.DEFAULT_GOAL := help
.PHONY: help run demo unit hooks test fuzz chaos mutations compat soak bench check format lock docs pictures site render-chart clean parts

help:
	@sed -n 's/^# //p' Makefile | head -n 12

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "calltag needs Python 3.11 or newer as '$(PYTHON)'; name another with: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "The venv module does not work; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

$(RUN_READY): requirements-run.lock requirements-build.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing calltag and what it needs into $(VENV) (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-build.lock -r requirements-run.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_READY): requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing calltag and its development tools into $(VENV) (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@ $(RUN_READY)

$(NODE_READY): $(NODE_CLIENTS)/package.json $(NODE_CLIENTS)/package-lock.json
	@echo "Installing the official CometD clients (once) ..."
	@cd $(NODE_CLIENTS) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(PEERS_READY): $(PEERS)/package.json $(PEERS)/package-lock.json
	@echo "Installing the servers that the bench holds calltag against (once) ..."
	@cd $(PEERS) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(PICTURES_READY): $(PICTURES)/package.json $(PICTURES)/package-lock.json
	@echo "Installing the renderer of the pictures (once) ..."
	@cd $(PICTURES) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

run: $(RUN_READY)
	@exec $(BIN)/calltag serve --embedded --demo --port $(PORT)

demo: $(RUN_READY)
	@exec $(BIN)/calltag demo --url http://127.0.0.1:$(PORT) --own-if-absent

parts:
	@sh tests/parts/install.sh

unit: $(DEV_READY)
ifeq ($(PYTHONS),)
	@$(BIN)/python -m pytest -q --numprocesses auto --dist loadfile tests/unit $(ARGS)
else
	@$(BIN)/python tests/pythons.py $(PYTHONS) --arguments="$(ARGS)"
endif

hooks: $(DEV_READY)
	@$(BIN)/pre-commit install

# Each process that a test starts would compile calltag anew.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(DEV_READY) $(if $(BEYOND_UNIT),parts) $(if $(BEYOND_PARTS),$(NODE_READY) $(PEERS_READY))
ifeq ($(ARGS),)
	@$(BIN)/python tests/run.py $(if $(JOBS),--jobs $(JOBS))
else
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest $(ARGS)
endif

fuzz: $(DEV_READY)
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(or $(SECONDS),60) $(if $(TARGET),--target $(TARGET))

chaos: $(DEV_READY) parts
	@PYTHONPATH=tests $(BIN)/python -m chaos --seed $(or $(SEED),1) --seeds $(or $(SEEDS),1) --seconds $(or $(SECONDS),30)

mutations: $(DEV_READY) parts
	@PYTHONPATH=tests $(BIN)/python -m chaos.mutations $(if $(ONLY),--only "$(ONLY)")

compat: $(DEV_READY) parts $(NODE_READY)
	@$(BIN)/python tests/compat.py $(if $(FOLDER),--folder $(FOLDER))

soak: $(DEV_READY) parts
	@PYTHONPATH=tests $(BIN)/python -m soak --seconds $(or $(SECONDS),600)

bench: $(DEV_READY) parts $(PEERS_READY)
	@PYTHONPATH=tests $(BIN)/python -m bench --folder $(or $(FOLDER),.bench) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY))

check: $(DEV_READY)
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/bandit --quiet --recursive --configfile pyproject.toml services shared deploy
	@$(BIN)/python deploy/locks.py --check
	@$(BIN)/python deploy/audit.py
	@$(BIN)/calltag docs --check
	@$(BIN)/python deploy/dashboards.py --check
	@$(BIN)/python deploy/chart.py --check
	@$(BIN)/python deploy/website.py --check
	@PYTHONPATH=tests $(BIN)/python tests/house.py > /dev/null
	@$(BIN)/python tests/language.py
	@$(BIN)/yamllint --strict -c deploy/.yamllint.yaml deploy
	@$(BIN)/hadolint deploy/Dockerfile
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml deploy/compose.monitoring.yaml
	@echo "check: all good"

format: $(DEV_READY)
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

lock: $(DEV_READY)
	@$(BIN)/python deploy/locks.py

docs: $(DEV_READY)
	@$(BIN)/calltag docs
	@$(BIN)/python deploy/dashboards.py
	@$(BIN)/python deploy/chart.py

render-chart: $(DEV_READY)
	@$(BIN)/python deploy/chart.py render $(VALUES)

# Needs Node 18 or newer with npm.
pictures: $(PICTURES_READY)
	@node $(PICTURES)/render.mjs

# Open .site/index.html, or serve the folder: search needs a server.
site: $(DEV_READY)
	@$(BIN)/python deploy/website.py .site

clean:
	rm -rf $(VENV) .venvs $(NODE_CLIENTS)/node_modules $(PEERS)/node_modules $(PICTURES)/node_modules .bench .coverage* .fuzz .test-results .hypothesis .mypy_cache .pytest_cache .ruff_cache .site
