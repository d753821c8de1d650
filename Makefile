# `make run` and `make test` need make, Python 3.11 or newer and pip's package index; nothing else.
# Everything goes into .venv and .local.

BIN := .venv/bin
TEST_PROCESSES ?= logical
TEST_ENV := DJANGO_SETTINGS_MODULE=notify_project.settings.test LOG_LEVEL=ERROR
export PYTHON

.PHONY: help run demo test check fmt lock chaos chaos-short bench-dispatch bench-faults bench-import bench-preferences bench-transport test-oracle clean

help:
	@echo 'make run    everything on this machine: PostgreSQL, Valkey, web, workers, beat, Flower, sandbox'
	@echo 'make demo   300 notifications through a running stack, followed to their end'
	@echo 'make test   the tests, with stores of their own'
	@echo 'make test-oracle  all 100,000 random decisions, every zone and every order of the opt-out race'
	@echo 'make check  format, lint, types, import contracts, migrations, tests'
	@echo 'make chaos  kill everything on both brokers while ledgers count: a table of what was lost (half an hour)'
	@echo 'make chaos-short  the part of it that make check runs'
	@echo 'make bench  the four parts below, then the figures of README and docs/capacity.md'
	@echo 'make bench-intake     a POST and a batch against a plain DRF view'
	@echo 'make bench-broadcast  a broadcast against a bare program, plain Celery and firebase-admin'
	@echo 'make bench-isolation  urgent pushes beside a broadcast'
	@echo 'make bench-scaling    the cost of a recipient at 10,000, 100,000 and 1,000,000'
	@echo 'make bench-plans      the plan of every hot query at 10,000,000 rows'
	@echo 'make bench-import  how many recipients a second an import loads'
	@echo 'make bench-preferences  CPU per recipient of deciding for a batch of 500'
	@echo 'make bench-transport  CPU per push against a bare libcurl loop'
	@echo 'make bench-dispatch  CPU of a worker per push and per e-mail, step by step'
	@echo 'make fmt    format the code and mend what can be mended'
	@echo 'make lock   resolve requirements/*.in into requirements/*.txt (newer versions: UPGRADE=--upgrade)'
	@echo 'make clean  stop the local stack and delete its data (.local) and all caches'

run:
	@sh requirements/install.sh local && exec $(BIN)/python -m notify_project.local run --with-parent

demo:
	@sh requirements/install.sh local && exec $(BIN)/python manage.py demo $(ARGS)

test:
	@sh requirements/install.sh dev && exec $(BIN)/python -m pytest -n $(TEST_PROCESSES) --maxprocesses 8 $(ARGS)

# The samples that `make test` runs of the exhaustive tests, in full.
test-oracle:
	@sh requirements/install.sh dev && FULL_TESTS=1 exec $(BIN)/python -m pytest -n $(TEST_PROCESSES) \
		tests/preferences/test_oracle.py tests/preferences/test_race.py $(ARGS)

check:
	@sh requirements/install.sh dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(TEST_ENV) $(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	$(TEST_ENV) $(BIN)/python manage.py check --fail-level WARNING
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --maxprocesses 8

# One scenario: make chaos ARGS='--only kill-workers --brokers valkey'; all of them: ARGS=--help.
chaos:
	@sh requirements/install.sh dev && exec $(BIN)/python -m tests.chaos $(ARGS)

chaos-short:
	@sh requirements/install.sh dev && exec $(BIN)/python -m pytest tests/chaos $(ARGS)

.PHONY: bench bench-intake bench-broadcast bench-isolation bench-scaling bench-plans
# All four parts, then README, the capacity page and the plots from what they found. Takes half an hour; ARGS=--quick a few minutes.
bench:
	@sh requirements/install.sh dev && exec $(BIN)/python -m benchmarks.run_all $(ARGS)

bench-intake bench-broadcast bench-isolation bench-scaling bench-plans:
	@sh requirements/install.sh dev && exec $(BIN)/python -m benchmarks.$(subst -,_,$@) $(ARGS)

bench-import:
	@sh requirements/install.sh dev && exec $(BIN)/python -m benchmarks.bench_import $(ARGS)

bench-preferences:
	@sh requirements/install.sh dev && exec $(BIN)/python -m benchmarks.bench_preferences $(ARGS)

bench-transport:
	@sh requirements/install.sh dev && exec $(BIN)/python -m benchmarks.bench_transport $(ARGS)

bench-dispatch:
	@sh requirements/install.sh dev && exec $(BIN)/python -m benchmarks.bench_dispatch $(ARGS)

bench-faults:
	@sh requirements/install.sh dev && exec $(BIN)/python -m benchmarks.bench_faults $(ARGS)

fmt:
	@sh requirements/install.sh dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# Keeps the versions that are locked already; `make lock UPGRADE=--upgrade` takes the newest that fit.
lock:
	@sh requirements/install.sh dev
	rm -rf .local/lock && $(BIN)/python -m venv .local/lock && .local/lock/bin/pip install -q uv
	for name in base local dev; do \
		.local/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
			--no-emit-index-url $(UPGRADE) requirements/$$name.in --output-file requirements/$$name.txt || exit 1; \
	done
	.local/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url $(UPGRADE) benchmarks/requirements.in --output-file benchmarks/requirements.txt
	rm -rf .local/lock

clean:
	@if [ -d .local ]; then sh requirements/install.sh local && $(BIN)/python -m notify_project.local down; fi
	rm -rf .local .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
