# Everything runs in a virtual environment of its own, which `make install` sets up and keeps up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPP := $(shell find csrc -name '*.h' -o -name '*.cpp')

.PHONY: install run test bench lint format wheel clean

install: $(VENV)/installed

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The environment and the extension are made again only when what they are made of has changed.
$(VENV)/installed: pyproject.toml setup.py $(CPP) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24' 'setuptools>=77' wheel ninja numpy 'torch>=2.11'
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[train,dev]'
	touch $@

run: install
	$(BIN)/bfn train digits

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(BIN)/python -m pytest -n auto tests/kernels

# Under ten minutes; with QUICK=1 about one, at sizes that show only that everything runs.
bench: install
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP)

wheel: install
	$(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info bfn_kernels/*.so
