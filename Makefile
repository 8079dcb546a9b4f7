PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint types docs clean

quickstart: .venv/installed      ## prune an MLP at initialization, restore isometry, train it, test it; no download
	OMP_NUM_THREADS=1 $(BIN)/spl fit --config configs/quickstart.yaml  # more threads do not speed up such a small network

test: .venv/installed-dev        ## the whole test suite
	$(BIN)/pytest -n 2 --dist worksteal

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

docs: .venv/installed-dev        ## the documentation site, in build/docs; executes the tutorials
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -q -d build/doctrees docs build/docs

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit("spl needs Python 3.11 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --upgrade pip

.venv/installed: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --editable .
	touch $@

.venv/installed-dev: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --editable '.[dev,docs]'
	touch .venv/installed $@

clean:
	rm -rf .venv build
