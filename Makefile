# Thin: each target is a few lines that a person could type.
PYTHON ?= $(shell for python in python3.12 python3.11 python3; do command -v $$python >/dev/null && $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.requirements
WORKERS ?= --numprocesses 2 --dist loadfile
PART ?= 1/1

.PHONY: demo demo-short test test-all lint bench bench-learning clean

demo: $(STAMP)
	$(RUN) -m vla_jax demo

demo-short: $(STAMP)
	$(RUN) -m vla_jax demo --short --out build/demo

test: $(STAMP)
	JAX_PLATFORMS=cpu $(RUN) -m pytest $(WORKERS)

test-all: $(STAMP)
	JAX_PLATFORMS=cpu $(RUN) -m pytest $(WORKERS) -m "" --part $(PART)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(STAMP)
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.data_pipeline
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.indexing
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.memory
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.statistics
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.training_step
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.wide_layers
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.weights --family llama
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.backbones
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.pruning
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.guidance
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.step_overhead
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.restore
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.latency
	test ! -x build/environments/tensorflow/bin/python || $(RUN) -m benchmarks.against_tf_data  # after test-all

bench-learning: $(STAMP)
	JAX_PLATFORMS=cpu $(RUN) -m benchmarks.learning

$(STAMP): requirements.txt requirements-dev.txt requirements-export.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 with venv is needed: apt-get install python3 python3-venv"; exit 2; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $(STAMP)

clean:
	rm -rf $(VENV) build
