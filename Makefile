# `make demo` and `make test` set themselves up in .venv; nothing else on the machine is changed,
# except that root on Debian gets python3-venv where it is missing, and `make test` the packages of a display
# (tools/apt-packages.txt).

BIN := .venv/bin
READY := .venv/.ready
DISPLAYED := .venv/.displayed
export PYTHON

.PHONY: help setup demo check test test-core test-slicer test-py312 test-gui test-quick soak clean

help:
	@echo "make demo        segment a real microscopy picture with a model that comes along"
	@echo "make test        every check and test, with coverage"
	@echo "make test-quick  the tests without the slow ones and without windows"
	@echo "make test-gui    the tests of the napari plugin, on a display of their own"
	@echo "make test-slicer the tests of the 3D Slicer extension, without Slicer"
	@echo "make test-py312  some of both on Python 3.12, as in Slicer; its grammar only where there is none"
	@echo "make soak        the long proofs: hundreds of kills, estimates against runs"
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

$(DISPLAYED): tools/apt-packages.txt $(READY)
	tools/setup-display.sh
	@touch $@

test: check
	@$(MAKE) --no-print-directory test-core
	@$(MAKE) --no-print-directory test-slicer
	@$(MAKE) --no-print-directory test-py312
	@$(MAKE) --no-print-directory test-gui

# Two files at a time, each on one core: one after the other took twice as long
AT_ONCE := env OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test-core: $(READY)
	$(AT_ONCE) -q -m "not soak" --ignore=tests/napari --ignore=tests/slicer --cov=mambaseg --cov-report=

test-slicer: $(READY)
	env -u DISPLAY QT_QPA_PLATFORM=offscreen $(AT_ONCE) -q tests/slicer --cov=mambaseg --cov-append --cov-report=

test-py312: $(READY)
	tools/test-py312.sh

test-gui: $(READY) $(DISPLAYED)
	tools/with-display $(BIN)/pytest -q tests/napari --cov=mambaseg --cov=napari_mambaseg --cov-append --cov-report=term

test-quick: $(READY)
	$(AT_ONCE) -q -m "not slow and not soak" --ignore=tests/napari --ignore=tests/slicer

soak: $(READY)
	$(BIN)/pytest -q -s -m soak --ignore=tests/napari --ignore=tests/slicer

clean:
	rm -rf .venv .venv-3.12 .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage dist
