# Two commands run everything: `make demo` and `make test`. Each makes .venv first where there is none.

PYTHON ?= python3.11
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test test-all lint bench lock clean

help:
	@echo "make demo      ask, purify, publish, train, compare: the whole chain in a few minutes, no key needed"
	@echo "make test      the test suite"
	@echo "make test-all  the slow tests too"
	@echo "make lint      format, lint and types, as in CI"
	@echo "make bench     asking, embedding, scoring: rates and memory; BENCH='--cells 5000' for a shorter asking"
	@echo "make install   the environment alone"
	@echo "make lock      resolve requirements.lock anew (needs uv)"

install: $(STAMP)

# Everything but torch comes by hash from the lock file; torch apart, because its build depends on the machine.
$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: install
	$(BIN)/python examples/demo.py

test: install
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu and not network"

test-all: install
	$(BIN)/python -m pytest -n 2 -m "not gpu and not network"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	$(BIN)/python tests/benchmarks/generate.py $(BENCH)
	$(BIN)/python tests/benchmarks/embedding.py
	$(BIN)/python tests/benchmarks/scoring.py

# torch and what only its CUDA build needs are left out: see `install`.
APART := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cccl nvidia-cuda-cupti \
  nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver \
  nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-index-url --no-annotate $(addprefix --no-emit-package ,$(APART)) --output-file requirements.lock

clean:
	rm -rf $(VENV) runs dist build
