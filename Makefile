# Everything a newcomer or CI needs. `make study` is the miniature from a bare clone to the report.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TARGET ?= eu
export HF_HUB_OFFLINE := 1
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install study test test-slow test-slurm lint bench clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: [^#]*## /\t/' | expand -t 16

$(VENV)/installed: setup.cfg constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "begira needs Python 3.10 or newer with venv (Debian: apt-get install python3-venv)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed (Debian: apt-get install python3-venv)"; exit 2; }
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

install: $(VENV)/installed  ## create .venv and install begira with its test tools

study: $(VENV)/installed  ## the whole study in miniature: data, training, evaluation, report
	$(BIN)/begira data build emoji --lang $(TARGET)
	$(BIN)/begira submit mini data.target=$(TARGET)
	$(BIN)/begira report mini data.target=$(TARGET)

lint: $(VENV)/installed  ## ruff
	$(BIN)/ruff check .

test: $(VENV)/installed lint  ## what needs neither Slurm nor a GPU
	$(BIN)/python -m pytest -m "not slurm and not gpu and not slow" tests

test-slow: $(VENV)/installed  ## the long matrices
	$(BIN)/python -m pytest -m "slow and not slurm and not gpu" --timeout 1800 tests

test-slurm: $(VENV)/installed  ## a real Slurm of four nodes on this machine
	$(BIN)/python -m tests.cluster install
	$(BIN)/python -m pytest -m "slurm and not slow" tests/slurm

bench: $(VENV)/installed  ## ours against the alternative: one line each
	$(BIN)/python -m benchmarks

clean:           ## remove the environment; runs, data and reports stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
