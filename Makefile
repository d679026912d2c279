# Every target with a `##` line shows up in `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PORT ?= 8000
HOST ?= 127.0.0.1
PYTHON ?= python3
ARGS ?=

VENV := .venv
OPS := .venv-infra
NODE := $(shell command -v npm)
BIN := $(VENV)/bin
GPU := $(shell [ -e /dev/nvidiactl ] && echo yes)
BUILD := $(if $(GPU),cuda,cpu)
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
LOCKED := --no-deps --require-hashes
TORCH_CPU := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu

export PYTHONPATH := $(CURDIR)/code
# Where it is set, each worker of the tests compiles all of them anew, for 8 seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

# --- setting up -------------------------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/service: code/requirements/$(BUILD).txt code/requirements/bundled.txt | $(BIN)/python
	@echo "Installing the service on vLLM's $(BUILD) build (about 3 minutes, once) ..."
ifeq ($(BUILD),cpu)
	$(PIP) install --progress-bar on $(TORCH_CPU) || $(PIP) install --progress-bar on --extra-index-url $(TORCH_INDEX) $(TORCH_CPU)
endif
	$(PIP) install --progress-bar on $(LOCKED) -r $< -r code/requirements/bundled.txt
	touch $@

# What only operators need: the cloud SDK, and Serverless Devs when Node is there. No engine.
$(OPS)/ready: infra/requirements.txt
	$(PYTHON) -m venv $(OPS)
	$(OPS)/bin/python -m pip --disable-pip-version-check install -q $(LOCKED) -r $<
	touch $@

infra/node_modules: infra/package-lock.json
	npm ci --prefix infra --no-audit --no-fund --loglevel error
	touch $@

$(VENV)/dev: tests/requirements.txt infra/requirements.txt $(VENV)/service $(if $(NODE),infra/node_modules)
	@echo "Installing what tests and checks need (about 1 minute, once) ..."
	$(PIP) install $(LOCKED) -r tests/requirements.txt
	$(PIP) install $(LOCKED) -r infra/requirements.txt
	touch $@

.PHONY: setup
setup: $(VENV)/dev ## Install everything for running and developing

# --- running ----------------------------------------------------------------------------------------------------

.PHONY: run
run: $(VENV)/service ## Run the service here on :8000, for this machine (HOST=0.0.0.0: for all; PORT=8010, ARGS='--model PATH ...')
	@$(BIN)/python -m chatbot_llm.progress --port $(PORT) & \
	  exec $(BIN)/python -m chatbot_llm --host $(HOST) --port $(PORT) $(ARGS)

# --- testing ----------------------------------------------------------------------------------------------------

GROUPED := --dist loadgroup --no-loadscope-reorder
.PHONY: test
test: $(VENV)/dev ## Run every test that can run here, real engine included (ARGS=tests/routes: only those)
ifeq ($(ARGS),)
	@failed=0; $(BIN)/python -m pytest -n 3 $(GROUPED) -m 'not engine' || failed=$$?; \
	  if [ $$failed -le 1 ]; then $(BIN)/python -m pytest -n 2 $(GROUPED) -m engine || failed=$$?; fi; exit $$failed
else
	$(BIN)/python -m pytest $(ARGS)
endif

.PHONY: test-fast
test-fast: $(VENV)/dev ## Run the short tests of every room that start neither an engine nor a process, in a minute
	$(BIN)/python -m pytest -n 2 $(GROUPED) -m 'not engine and not process and not long' $(ARGS)

MINUTES ?= 5
.PHONY: soak
soak: $(VENV)/dev ## Load with faults for MINUTES=5; a page and a plot in build/soak
	$(BIN)/python tests/soak/soak.py --minutes $(MINUTES)

EXAMPLES ?= 50000
.PHONY: fuzz
fuzz: $(VENV)/dev ## Throw EXAMPLES=50000 bad inputs at the service
	FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/fuzz tests/server/test_stream_order.py --timeout 7200 $(ARGS)

.PHONY: figures
figures: $(VENV)/dev ## Measure what is promised, and write the tables anew (about 14 minutes, a quiet machine)
	FIGURES=tests/docs/figures.json $(BIN)/python -m pytest $(ARGS)
	$(BIN)/python tests/docs/readme.py

$(VENV)/bench: tests/bench/requirements.txt $(VENV)/service
	$(PIP) install $(LOCKED) -r $<
	touch $@

.PHONY: bench
bench: $(VENV)/bench ## Measure the service against its peers, 13 minutes, a quiet machine (ARGS='--all --rounds 3': 80)
	PYTHONPATH=tests:code $(BIN)/python -m bench $(ARGS)
	$(BIN)/python tests/docs/readme.py

.PHONY: bench-report
bench-report: $(VENV)/bench ## Write BENCHMARKS.md, and code/README.md's figures, from the last results
	PYTHONPATH=tests:code $(BIN)/python -m bench --report
	$(BIN)/python tests/docs/readme.py

.PHONY: bench-gpu
bench-gpu: $(VENV)/bench ## The same on an NVIDIA card, against its roofline
	PYTHONPATH=tests:code $(BIN)/python -m bench.gpu $(ARGS)

.PHONY: check
check: $(VENV)/dev ## Lint, types, dependencies: what needs no test run
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vulture
	$(BIN)/deptry .
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck .ci/run .ci/with-engine
	$(BIN)/zizmor --offline --quiet .github/workflows

# --- the image --------------------------------------------------------------------------------------------------

TAG := $(shell git describe --tags --always --dirty --abbrev=12 2>/dev/null)
COMMIT := $(shell git rev-parse HEAD 2>/dev/null)
CUDA ?= cu130
MODEL_SOURCE ?= huggingface
# What .env has for a name, read as `s` and `python -m infra` read it; what the shell has, counts.
dotenv = $(shell sed -nE "s/^ *(export +)?$(1) *= *['\"]?([^'\" ]*).*/\2/p" .env 2>/dev/null)
DEPLOY_REPOSITORY ?= $(call dotenv,DEPLOY_REPOSITORY)
# CACHE=registry keeps every layer of the build beside the image, for a machine that starts empty (needs a builder with the
# docker-container driver). The tag `buildcache` is the one that moves; nothing is deployed from it.
CACHE ?=
CACHE_AT := type=registry,ref=$(DEPLOY_REPOSITORY):buildcache
REGISTRY_CACHE := --cache-from $(CACHE_AT) --cache-to $(CACHE_AT),mode=max,image-manifest=true,oci-mediatypes=true
export DEPLOY_REPOSITORY

# A build argument without a value is taken from the environment, when it is there.
BUILD_IMAGE = docker buildx build --platform linux/amd64 --provenance=false --sbom=false --progress=plain \
	  --build-arg CUDA=$(CUDA) --build-arg MODEL_SOURCE=$(MODEL_SOURCE) --build-arg VERSION=$(TAG) --build-arg REVISION=$(COMMIT) \
	  --build-arg HF_ENDPOINT --build-arg MODELSCOPE_ENDPOINT --build-arg PIP_INDEX_URL --build-arg PYTHON_IMAGE

.PHONY: image
image: ## Build the GPU image (CUDA=cu129, MODEL_SOURCE=modelscope, HF_ENDPOINT=... for a mirror)
	$(BUILD_IMAGE) $(if $(filter registry,$(CACHE)),$(REGISTRY_CACHE)) --load -t chatbot-llm:local -t chatbot-llm:$(TAG) .

# The builder knows each layer's digest and sends what the registry lacks. Docker's own store has to compress and send every layer to
# learn the digests, unless this engine has pushed it before.
.PHONY: push
push: ## Push the image as DEPLOY_REPOSITORY:<git describe>; a tag that exists is never overwritten, and fine if it is this commit
	$(PYTHON) -m infra push $(ARGS) $(if $(filter registry,$(CACHE)),--by $(BUILD_IMAGE) --push .)

.PHONY: image-test
image-test: $(VENV)/dev ## Build the image whole but for the weights, measure and try it (a quarter of an hour, 25 GB, a Docker engine)
	WHOLE_IMAGE=yes $(BIN)/python -m pytest -s tests/contract/test_whole_image.py

.PHONY: local-test
local-test: $(VENV)/dev ## Start the image on this machine's GPU as FC does and try it; without a GPU, the CPU build
	$(BIN)/python -m infra local-test $(ARGS)

# --- the cloud --------------------------------------------------------------------------------------------------

export DEPLOY_IMAGE ?= $(or $(call dotenv,DEPLOY_IMAGE),$(DEPLOY_REPOSITORY):$(TAG))
INFRA = PYTHON=$(abspath $(OPS))/bin/python $(OPS)/bin/python -m infra

.PHONY: doctor
doctor: $(OPS)/ready infra/node_modules ## Check s.yaml; needs no account
	$(INFRA) doctor

.PHONY: deploy
deploy: $(OPS)/ready infra/node_modules ## Deploy to what nobody calls yet, wait until all of it stands, try it
	$(INFRA) deploy $(ARGS)

.PHONY: release
release: $(OPS)/ready ## Publish a version, try it, move the alias to it or go back
	$(INFRA) release --description "$$(git describe --always)" $(ARGS)

.PHONY: smoke
smoke: $(OPS)/ready ## Ask the deployed function a few questions and judge the answers
	$(INFRA) smoke $(ARGS)

.PHONY: destroy
destroy: $(OPS)/ready ## Delete the function, its aliases, versions and instances; asks first (ARGS=--yes does not)
	$(INFRA) destroy $(ARGS)

.PHONY: status
status: $(OPS)/ready ## Show the address, image, instances, errors, what is paid for
	$(INFRA) status

# --- keeping ----------------------------------------------------------------------------------------------------

.PHONY: readme
readme: $(VENV)/dev ## Write the generated parts of the README files
	$(BIN)/python tests/docs/readme.py

.PHONY: coverage
coverage: $(VENV)/dev ## Lines of the service's rooms that the in-process tests walk through; fails below the gate
	$(BIN)/python -m pytest -m 'not engine and not process' tests/test_settings.py tests/engine tests/observability tests/playground tests/rag tests/routes tests/security tests/server tests/serving -q --cov --cov-report=term:skip-covered

.PHONY: audit
audit: $(VENV)/dev ## Known vulnerabilities in the locks, by PyPI's advisories
	@failed=0; for lock in code/requirements/cpu.txt code/requirements/cuda.txt tests/requirements.txt infra/requirements.txt; do \
	  echo "$$lock:"; $(BIN)/pip-audit --disable-pip --no-deps --progress-spinner off -r $$lock || failed=1; done; exit $$failed

.PHONY: sbom
sbom: $(VENV)/dev ## What is installed, as CycloneDX (build/sbom.json)
	mkdir -p build && $(BIN)/cyclonedx-py environment --output-reproducible --of JSON -o build/sbom.json $(BIN)/python

.PHONY: lock
lock: ## Make the lock files again from the .in files (needs uv)
	cd code/requirements && uv pip compile -q --generate-hashes --no-header --python-version 3.11 --overrides cpu.overrides.txt \
	  --no-emit-package torch $(LOCK_ARGS) cpu.in -o cpu.txt
	cd code/requirements && uv pip compile -q --generate-hashes --no-header --python-version 3.11 --no-deps -c cpu.txt \
	  $(LOCK_ARGS) bundled.in -o bundled.txt
	cd code/requirements && uv pip compile -q --generate-hashes --no-header --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_36 --only-binary :all: --overrides cuda.overrides.txt $(LOCK_ARGS) cuda.in -o cuda.txt
	for lock in tests infra tests/bench; do uv pip compile -q --generate-hashes --no-header --python-version 3.11 --no-emit-package torch \
	  -c code/requirements/cpu.txt $(LOCK_ARGS) $$lock/requirements.in -o $$lock/requirements.txt; done
	cd tests/clients/locks && for lock in *.in; do uv pip compile -q --generate-hashes --no-header --no-annotate --universal \
	  --python-version 3.11 $$lock -o $${lock%.in}.txt; done
	cd tests/clients/locks && for lock in */; do npm install --prefix $$lock --package-lock-only --omit-lockfile-registry-resolved \
	  --no-audit --no-fund --loglevel error; done

.PHONY: clean
clean: ## Remove what this Makefile made
	rm -rf $(VENV) $(OPS) infra/node_modules build .mypy_cache .ruff_cache .pytest_cache
