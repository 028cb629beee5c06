# Everything runs in a virtual environment of its own, which `make install` sets up and keeps up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
comma := ,
SOURCES := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu')
CPP := $(SOURCES) $(shell find tests -name '*.h' -o -name '*.cpp')
# `make install` builds the CUDA kernels if there is a GPU. `wheel`, `dist` and `kernel-hub` always do if there is nvcc.
NVCC := $(if $(shell command -v nvidia-smi),$(shell command -v nvcc))
EXTRAS := train,dev,molecules$(if $(shell command -v nvcc),,$(comma)gpu-build)

MINUTES ?= 10

# the tests that run on Triton's interpreter, too
INTERPRETED = tests/kernels tests/fuzz/test_fuzz_heads.py

# Python writes bytecode, even where the environment forbids it. Otherwise each of a hundred processes of the tests
# would compile torch's Python files again, which takes 1.4 of the 3 seconds of its import.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install run test test-slow mutants fuzz sanitize bench docs gpu-build gpu-check gpu-test lint format wheel \
	sdist dist kernel-hub check-dist clean

install: $(VENV)/installed

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The names of the builds of the CPU kernels that run on this machine. The package loads the first, which is the best.
BUILDS = $$($(BIN)/python -c 'from bfn_kernels.backends import builds; print(*builds()$(1), sep=",")')

# Runs setup.py, which says how far it is. What compilers say is shown only if the build fails.
SETUP = PYTHONWARNINGS=ignore $(abspath $(BIN))/python setup.py -q
LOG = $(abspath $(VENV))/builds.log
LOGGED = > $(LOG) || { cat $(LOG); false; }

# The environment and the extensions are rebuilt only if their sources have changed. pip compiles no bytecode, since
# most installed modules are never imported. The extensions are compiled before pip runs, since pip would compile them
# without a message.
BEST = BFN_BUILDS=$(call BUILDS,[:1]),_cuda BFN_NVCC=$(NVCC)
$(VENV)/installed: pyproject.toml setup.py $(SOURCES) | $(VENV)/bin/python
	@echo "Installing torch and all else, then compiling the kernels, which takes minutes."
	$(BIN)/python -m pip install --quiet --no-compile --upgrade 'pip>=24' 'setuptools>=77' wheel ninja numpy 'torch>=2.11'
	$(BEST) $(SETUP) build_ext --inplace $(LOGGED)
	$(BEST) PYTHONWARNINGS=ignore \
		$(BIN)/python -m pip install --quiet --no-compile --no-build-isolation --editable '.[$(EXTRAS)]'
	touch $@

# The builds that only tests load on this machine. They are compiled with -O1.
$(VENV)/all-builds: $(VENV)/installed
	BFN_BUILDS=none,$(call BUILDS,[1:]) BFN_TUNED=none BFN_NVCC= $(SETUP) build_ext --inplace $(LOGGED)
	touch $@

run: install
	$(BIN)/bfn train digits

test: install $(VENV)/all-builds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m 'not slow'
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(BIN)/python -m pytest -n auto -m 'not slow' $(INTERPRETED)
	OMP_NUM_THREADS=1 BFN_PTX=cuda $(BIN)/python -m pytest -n auto tests/ptx/test_cuda_ptx.py \
		-k 'not (every_kernel and (torch.float16 or torch.float64))'
	OMP_NUM_THREADS=1 BFN_PTX=triton $(BIN)/python -m pytest -n auto -m 'not slow' \
		tests/ptx/test_triton_ptx.py

# The tests that `make test` leaves out, since each takes many seconds: before a release.
test-slow: install $(VENV)/all-builds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(BIN)/python -m pytest -n auto -m slow $(INTERPRETED)

# Runs all tests of the kernels on the PTX that nvcc and Triton compile for a GPU, in an interpreter, without a GPU.
# `make test` has the part that executes every kernel in float32, and the CUDA kernels in bfloat16.
gpu-test: install
	OMP_NUM_THREADS=1 BFN_PTX=cuda $(BIN)/python -m pytest -n auto tests/ptx tests/kernels
	OMP_NUM_THREADS=1 BFN_PTX=triton $(BIN)/python -m pytest -n auto tests/ptx tests/kernels

# Before a release: puts small faults into a copy of the code, one at a time, and checks that tests fail. The faults are
# those of the tables or, with N=200 SEED=3, 200 at random places. ONLY=discrete chooses faults that contain this text.
mutants: install
	$(BIN)/python -m tests.mutants $(if $(N),--random $(N) --seed $(or $(SEED),0)) --only '$(ONLY)'

# Lets hypothesis look for calls that break a property of an op, with new seeds, for MINUTES.
fuzz: install
	$(BIN)/python -m tests.fuzz $(MINUTES)

# Compiles the CPU kernels with the sanitizers of g++, which takes minutes, for the fuzz and the tests. `make test` looks
# for the same faults in the PTX of CUDA.
sanitize: install
	$(BIN)/python -m tests.fuzz.sanitized

# Runs every case of the benchmarks; QUICK=1 takes about a minute, at sizes that only show that everything runs.
bench: install
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

# Installs the packages of the extra `docs`, and builds the site of the documentation, build/site. A link that leads
# nowhere is an error.
docs: install
	$(BIN)/python -c 'from importlib.metadata import requires; print(*(r.split(";")[0] for r in requires("bfn-kernels") \
		if "docs" in r.partition("extra")[2]), sep="\n")' | $(BIN)/python -m pip install --quiet --requirement /dev/stdin
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

# Compiles all GPU kernels, which needs no GPU, and compares the cost of each call with its budget.
gpu-build: install
	$(BIN)/python -m gpu_build

# Needs a machine with a GPU and a torch for CUDA: builds, tests and times, and writes all output to a report.
gpu-check:
	$(PYTHON) -m gpu_build.check

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

format: install
	$(BIN)/python -m tests.kernels.wordings
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP)

# Builds a wheel, with the CUDA kernels if nvcc is on the path or in the environment.
FOUND_NVCC = BFN_NVCC=$$($(BIN)/python -c 'from gpu_build.sass import find_tool; print(find_tool("nvcc") or "")')
WHEEL = $(SETUP) bdist_wheel --dist-dir $(abspath dist)

wheel: install
	$(FOUND_NVCC) $(WHEEL) $(LOGGED)

sdist: install
	$(BIN)/python setup.py -q sdist

# Builds the source distribution, and the wheel from it.
VERSION = $$($(BIN)/python setup.py --version)
dist: sdist
	rm -rf build/sdist && mkdir -p build/sdist
	tar -xzf dist/bfn_kernels-$(VERSION).tar.gz -C build/sdist --strip-components=1
	export $(FOUND_NVCC) && cd build/sdist && $(WHEEL) $(LOGGED)

# Writes the folder that Hugging Face's `kernels` loads.
kernel-hub: install
	$(FOUND_NVCC) $(BIN)/python -m release.kernel_hub dist/kernel_hub

# Tests the files that these two targets build. The package `kernels`, if it is installed, loads the folder.
check-dist: dist kernel-hub
	BFN_DIST=dist $(BIN)/python -m pytest tests/release

clean:
	rm -rf $(VENV) build dist *.egg-info bfn_kernels/*.so
