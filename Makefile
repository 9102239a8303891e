# slurmsia: the two commands are 'make run' and 'make test'; 'make help' lists the rest.
# The work is done by the scripts in .ci/ and by tests/cluster/control.py.

SUITE ?= forky
CLUSTER = python3 tests/cluster/control.py
export PYTHON TIERS TORCH

.PHONY: run test test-full lint format types imports wheel torch help clean \
        cluster-up cluster-check cluster-shell cluster-down cluster-clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile
	@echo "  SUITE=forky|trixie|bookworm chooses the cluster's Slurm (26.05, 24.11, 22.05); TIERS='unit forky ...' the test tiers"

run: .venv/ready-run ## the main job on the emulated cluster, with SQLite
	@.ci/demo

test: .venv/ready-test ## every test tier (needs root or Docker rights for the cluster)
	@.ci/tiers

test-full: .venv/ready-test ## everything on every Slurm release, slow tests too
	@FULL=1 .ci/tiers

lint: .venv/ready-test ## ruff: rules and format
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

format: .venv/ready-test ## let ruff rewrite what it can
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

types: .venv/ready-test ## mypy, strict
	@.venv/bin/mypy

imports: .venv/ready-test ## the arrows between packages
	@.venv/bin/lint-imports --no-logo

wheel: .venv/ready-test ## build a wheel from a clean clone and run it in an empty environment
	@.ci/wheel

torch: .venv/ready-test ## PyTorch (CPU) for the tests that need it
	@.ci/torch

cluster-up: ## a Slurm cluster in containers, ready to use
	@$(CLUSTER) up $(SUITE)

cluster-check: ## its versions, nodes, and a job on each GPU type
	@$(CLUSTER) check $(SUITE)

cluster-shell: ## a shell in its controller
	@$(CLUSTER) shell $(SUITE)

cluster-down: ## remove it (its images stay)
	@$(CLUSTER) down $(SUITE)

cluster-clean: ## remove the images of all suites, except those in use
	@$(CLUSTER) remove-images

clean: ## remove what was built here: environment, caches, clusters of this checkout
	@if command -v docker >/dev/null && docker version >/dev/null 2>&1; then $(CLUSTER) down; $(CLUSTER) engine-stop; fi
	@rm -rf .venv .cluster artifacts build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	    .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/ready-run: setup.cfg .ci/venv
	@.ci/venv run

.venv/ready-test: setup.cfg .ci/venv
	@.ci/venv test
