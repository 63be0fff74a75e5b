# Two commands for newcomers: `make run` and `make test`. The rest is for those who work on hpo.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?= --trials 64

.PHONY: run test check chaos format clean

run: $(VENV)/.demo
	$(BIN)/python -m hpo.run $(ARGS)

# Two processes: half of the time is spent waiting. A module's tests stay together.
test: check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# 200 kills on SQLite and 200 on PostgreSQL; ARGS="--seed 8" for others, ARGS=outage or ARGS=modal.
chaos: ARGS =
chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@ $(VENV)/.demo
