# Everything needs only Python 3.11 or newer and GNU make. 'make' alone lists the targets.

PYTHON ?= python3
PY := .venv/bin/python
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PINGS ?= 13179
ORPHANS ?= 0
FAIL ?=
THEN ?=
PORT ?=
EXAMPLES ?= 5000
ARGS ?=
WORKERS ?= 3
ONLY ?=
SCHEDULES ?= 1000
SEED ?=

.PHONY: help setup demo up status down test test-chain explore test-browser faults env stack-test check bench lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  make demo takes PINGS=N, FAIL=orphans, ORPHANS=N, THEN=rollback and PORT=N; make up takes PINGS=N and PORT=N. See docs/commands.md."

setup: ## Create .venv from the locked requirements (other targets do this first)
	@command -v $(PYTHON) >/dev/null || { echo "setup: there is no $(PYTHON); name one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) scripts/setup.py

demo: setup ## Cut over the example application and print each step; succeeds only when it ends live on PostgreSQL
	@$(PY) -m examples.ward_ops.demo run --pings "$(PINGS)" --orphans "$(ORPHANS)" \
		$(if $(FAIL),--fail "$(FAIL)") $(if $(THEN),--then "$(THEN)") $(if $(PORT),--port "$(PORT)")

up: setup ## Start the example application and a local Airflow, or what of them does not run, and leave them running
	@$(PY) -m examples.ward_ops.demo up --pings "$(PINGS)" $(if $(PORT),--port "$(PORT)")

status: setup ## Print what of it runs, the state of its run, and what to do next
	@$(PY) -m examples.ward_ops.demo status

down: setup ## Stop everything that 'make up' started
	@$(PY) -m examples.ward_ops.demo down

test: setup ## Run the tests, WORKERS=3 files at a time; ARGS="tests/unit -k fence" runs some
	@mkdir -p var
	@PYTEST_DEBUG_TEMPROOT="$(CURDIR)/var" $(PY) -m pytest -n "$(WORKERS)" --dist loadfile --no-loadscope-reorder \
		-o tmp_path_retention_policy=failed $(ARGS)

test-chain: setup ## Run EXAMPLES=N whole cutovers drawn at random; about 15,000 an hour
	@mkdir -p var
	@PYTEST_DEBUG_TEMPROOT="$(CURDIR)/var" CHAIN_EXAMPLES="$(EXAMPLES)" $(PY) -m pytest -o tmp_path_retention_policy=failed \
		-o timeout=0 tests/chain/test_chain.py $(ARGS)

explore: setup ## Play SCHEDULES=N random schedules of kills, reboots, clears, rollbacks and people at the databases; SEED=N starts there
	@$(PY) -m tests.exploring $(SCHEDULES) $(if $(SEED),--seed $(SEED))

test-browser: setup ## Drive the interface in a real Chromium (Debian: chromium, chromium-driver)
	@$(PY) -m pytest tests/browser -m browser $(ARGS)

faults: setup ## Inject every fault, judge each outcome from outside, write docs/faults.md; ONLY="kill-* zombie-*" selects
	@set -f; $(PY) -m tests.faults $(ONLY)

env: ## Write .env and .env.tasks for docker-compose.yaml, with random secrets; never overwrite
	@$(PYTHON) scripts/make_env.py

stack-test: setup ## Build and start docker-compose.yaml and cut over in it; skipped without a container engine
	@$(PY) -m tests.stack $(ARGS)

check: setup ## Check lint, formatting, types and the order of the packages
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

bench: setup ## Measure the copy; ARGS is passed on
	@$(PY) -m bench.copying $(ARGS)

lock: ## Resolve requirements*.in again into the locks; UPGRADE=1 takes newer versions
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder" && "$$folder/bin/pip" install --quiet --disable-pip-version-check uv; \
	for name in requirements requirements-dev; do \
		UV_CUSTOM_COMPILE_COMMAND="make lock" "$$folder/bin/uv" pip compile --quiet --universal --python-version 3.11 \
			--generate-hashes --no-emit-index-url $(if $(UPGRADE),--upgrade) $$name.in -o $$name.txt; \
	done

clean: ## End running processes and remove generated files, but keep .venv, evidence and backups
	@if [ -x $(PY) ]; then $(PY) -m examples.ward_ops.demo down; $(PY) -m include.cutover stack down >/dev/null; fi
	@rm -rf var/demo var/up var/stack var/faults var/cache var/mypy var/pytest-of-* .ruff_cache .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
