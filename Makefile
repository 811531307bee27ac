# `make demo` and `make test` set themselves up in .venv; nothing else on the machine is changed,
# except that root on Debian gets python3-venv where it is missing.

BIN := .venv/bin
READY := .venv/.ready
export PYTHON

.PHONY: help setup demo check test test-quick clean

help:
	@echo "make demo        segment a real microscopy picture with a model that comes along"
	@echo "make test        every check and test, with coverage"
	@echo "make test-quick  the tests without the slow ones"
	@echo "make check       lint, types and layers"

setup: $(READY)

$(READY): pyproject.toml constraints.txt tools/setup.sh
	tools/setup.sh
	@touch $@

demo: $(READY)
	$(BIN)/mambaseg demo

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: check
	$(BIN)/pytest -q --cov=mambaseg --cov-report=term

test-quick: $(READY)
	$(BIN)/pytest -q -m "not slow"

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage dist
