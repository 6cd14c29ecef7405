# Everything works from a fresh checkout: each target makes the virtual environment it needs.
#   make demo      trains on an embedded Ray, shows the run and its log, serves the model
#   make test      runs the tests; Kubernetes by KUBECONFIG, else started here, else skipped
PYTHON ?=
VENV ?= .venv
OLDEST ?= .venv-oldest
DEMO ?= .demo
PYTEST_ARGS ?=
BIN := $(VENV)/bin
INSTALL := PYTHON="$(PYTHON)" scripts/install.sh "$(VENV)"
REQUIREMENTS := pyproject.toml constraints.txt scripts/install.sh

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-first-half test-second-half test-elsewhere test-ray test-ray-serve test-yarn test-stores test-serving test-large test-oldest fuzz check docs constraints cluster-up cluster-down clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Its Python package is built here, where the system's library is.
KERBEROS := $(shell command -v krb5-config >/dev/null 2>&1 && echo ,yarn-kerberos)

$(VENV)/.for-demo: $(REQUIREMENTS)
	@$(INSTALL) ray
	@touch $@

$(VENV)/.for-development: $(REQUIREMENTS)
	@$(INSTALL) k8s,ray,yarn,yarn-venv,yarn-conda,serve$(KERBEROS) dev
	@touch $@ $(VENV)/.for-demo

setup: $(VENV)/.for-development ## Make the virtual environment for development.

demo: $(VENV)/.for-demo ## Train on an embedded Ray; show the run and its log; serve the model.
	@scripts/demo.sh "$(VENV)" "$(DEMO)"

# Parts, each with systems of its own: `make -j3 test` runs them side by side, in an order in which
# all end at about the same time. More at once make nothing faster on two cores, and everything late.
PYTEST := $(BIN)/python -m pytest -m "not large" $(PYTEST_ARGS)
SERVING_TESTS := $(wildcard $(addprefix tests/mlflow/test_,ray_serve*.py k8s_deployments*.py serve*.py))
SIGN_IN_TESTS := $(wildcard tests/mlflow/test_sign_in*.py)
RAY_SERVE_TESTS := $(wildcard tests/mlflow/test_ray_serve*.py tests/unit/test_ray_serve*.py)
RAY_TESTS := $(filter-out $(RAY_SERVE_TESTS),$(wildcard $(addsuffix /test_ray*.py,tests/conformance \
    tests/mlflow tests/unit tests/unit/evaluation)))
STORE_TESTS := $(wildcard tests/conformance/test_stores*.py tests/mlflow/test_artifacts*.py) \
    tests/mlflow/test_file_plugin.py
SCAN_TESTS := $(wildcard tests/mlflow/test_scan*.py)
YARN_TESTS := $(wildcard $(addsuffix /test_yarn*.py,tests/clusters tests/conformance tests/mlflow tests/unit))

test: test-second-half test-first-half test-ray test-yarn test-stores test-ray-serve test-elsewhere ## Run the tests; with -j3 in half the time.

LATER_TESTS := $(wildcard $(addprefix tests/mlflow/test_k8s_,[k-z]*.py deployments_[k-z]*.py))

test-first-half: setup
	$(PYTEST) $(filter-out $(YARN_TESTS),$(wildcard tests/clusters/test_*.py)) \
	    $(wildcard tests/conformance/test_kubernetes*.py) \
	    $(filter-out $(LATER_TESTS),$(wildcard tests/mlflow/test_k8s_*.py))

test-second-half: setup
	$(PYTEST) $(LATER_TESTS) $(wildcard tests/mlflow/test_serve*.py) tests/unit/scoring

test-ray: setup
	$(PYTEST) $(RAY_TESTS)

test-ray-serve: setup
	$(PYTEST) $(RAY_SERVE_TESTS) $(SIGN_IN_TESTS)

test-elsewhere: setup
	$(PYTEST) --ignore tests/unit/scoring --ignore tests/unit/runtime \
	    --ignore-glob 'tests/unit/test_yarn*' --ignore-glob 'tests/unit/test_ray*' \
	    --ignore-glob 'tests/unit/evaluation/test_ray*' tests/unit $(SCAN_TESTS)

test-yarn: setup
	$(PYTEST) $(YARN_TESTS)

test-stores: setup
	$(PYTEST) $(STORE_TESTS) tests/unit/runtime tests/docs

test-serving: setup ## Run those of the tests that are of serving.
	$(PYTEST) $(SERVING_TESTS) tests/unit/scoring

# Where MLflow's own classes and functions are met; the rest is the same with any MLflow.
$(OLDEST)/.for-tests: pyproject.toml constraints-oldest.txt scripts/install.sh
	@CONSTRAINTS=constraints-oldest.txt PYTHON="$(PYTHON)" scripts/install.sh "$(OLDEST)" \
	    k8s,postgresql,mysql test
	@touch $@

test-oldest: $(OLDEST)/.for-tests ## Run the tests of the plugins with the oldest MLflow.
	$(OLDEST)/bin/python -m pytest -m "not large" $(PYTEST_ARGS) \
	    tests/unit/test_mlflow_bases.py tests/unit/evaluation/test_same_everywhere.py \
	    tests/mlflow/test_artifacts.py tests/mlflow/test_file_plugin.py \
	    tests/mlflow/test_scan.py tests/mlflow/test_scan_gate.py tests/mlflow/test_scan_suite.py \
	    -k "not sftp and not s3 and not postgresql and not artifactory and not breaks_off"

FUZZ_S ?= 300
FUZZED ?= .fuzz

fuzz: setup ## Look for locations that break a law, for FUZZ_S seconds; found ones are in .fuzz.
	@mkdir -p $(FUZZED)
	$(BIN)/python -W ignore -m tests.fuzz.run -max_total_time=$(FUZZ_S) -max_len=512 \
	    -dict=tests/fuzz/tokens.dict -artifact_prefix=$(FUZZED)/ $(FUZZED) tests/fuzz/corpus

test-large: setup ## Run the tests that need minutes or gigabytes each.
	$(BIN)/python -m pytest -m large $(PYTEST_ARGS)

# Quick things first. The code in the cluster has rules of its own: Python 3.8, standard library.
check: setup ## Check style, types, layers, sizes, and that generated docs are fresh.
	$(BIN)/ruff check .
	$(BIN)/ruff check --isolated --select E9,F,FA --target-version py38 mlflow_exec/runtime
	$(BIN)/ruff check --isolated --select E9,F,FA --target-version py39 mlflow_exec/scoring
	$(BIN)/python scripts/check_sizes.py
	$(BIN)/python scripts/check_runtime.py
	$(BIN)/python docs/generate.py --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

docs: setup ## Write the generated parts of the docs anew.
	$(BIN)/python docs/generate.py

constraints: setup ## Take the newest versions of all dependencies into constraints.txt.
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 \
	    --all-extras --group dev --no-annotate --no-header --no-emit-package mlflow-exec \
	    --output-file constraints.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 \
	    --extra k8s --extra postgresql --extra mysql --group test --no-annotate --no-header \
	    --no-emit-package mlflow-exec --output-file constraints-oldest.txt \
	    pyproject.toml constraints-oldest.in

cluster-up: setup ## Start a one-node Kubernetes for tests on this machine (Linux, root).
	@$(BIN)/python -m tests.clusters.kubernetes up

cluster-down: setup ## Stop it.
	@$(BIN)/python -m tests.clusters.kubernetes down

clean: ## Remove what the targets made here; caches outside of the checkout stay.
	@if [ -x $(BIN)/mlflow-exec ]; then $(BIN)/mlflow-exec ray stop >/dev/null 2>&1 || true; fi
	rm -rf $(VENV) $(OLDEST) $(DEMO) $(FUZZED) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache \
	    .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
