# The book, its tests and its notebooks. `make help` lists what there is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
BIN := .venv/bin
PAGE := _build/html/index.html
PDF := _build/cotflow.pdf

.PHONY: help book pdf test notebooks bench audit release hooks setup clean

help:
	@echo "make book       build the book into _build/html (sets up .venv first, if needed)"
	@echo "make pdf        the whole book as $(PDF); needs chromium or chrome"
	@echo "make test       ruff and all tests (sets up .venv first, if needed)"
	@echo "make notebooks  write the chapters as notebooks"
	@echo "make bench      measure the cost of a step for the chapter on solvers (JAX is compared if installed)"
	@echo "make audit      look up known vulnerabilities of every installed package (asks pypi.org: needs the network)"
	@echo "make release    build the book from a clean tree and pack it with its ledger and checksums into dist/"
	@echo "make hooks      have git run the checks of .pre-commit-config.yaml before every commit"
	@echo "make setup      only .venv, with the pinned packages and the library"
	@echo "make clean      remove what was built, and every cached execution"
	@echo
	@echo "PYTHON=python3.12 chooses the interpreter of a new .venv (at least 3.11)."
	@echo "WORKERS=1 runs the tests one after another."
	@echo "PIP_ARGS='...' is passed to pip, for instance an extra index with a CPU build of torch."

# jupyter-book may accept a page that failed in an earlier build, as long as its doctree is there:
# pages are read anew every time, and only the outputs of unchanged cells come from the cache.
book: setup
	@echo "[3/3] Building the book: chapters whose code or library changed are executed side by side."
	@rm -rf _build/.doctrees _build/html
	@trap 'rm -rf _build/html; echo "Interrupted: no half-built book was left behind." >&2; exit 130' INT TERM; \
	  $(BIN)/jupyter-book build . -W -n --keep-going
	@test -f $(PAGE)
	@echo
	@echo "The book is $(CURDIR)/$(PAGE)"
	@echo "To open it: $(BIN)/python -m webbrowser file://$(CURDIR)/$(PAGE)"

# The browser is looked for first: the book takes minutes.
pdf: setup
	@$(BIN)/python -m cotbook.keep.pdf --check
	@$(MAKE) --no-print-directory book
	@echo "Printing $(PDF); this takes a minute or two."
	@$(BIN)/python -m cotbook.keep.pdf _build/html $(PDF)
	@echo "The PDF is $(CURDIR)/$(PDF)"

test: setup
	@echo "[3/4] Checking the sources."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "[4/4] Running the tests; the first run also builds the book."
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

notebooks: setup
	@$(BIN)/cotflow notebooks

bench: setup
	@$(BIN)/cotflow bench

# Strict: a package that could not be looked up fails the audit too. PyPI knows no local builds, such as torch's +cpu.
audit: .venv/upkeep
	@$(BIN)/python -m pip list --disable-pip-version-check --format=freeze --exclude-editable | sed 's/+.*//' > .venv/audited.txt
	@$(BIN)/pip-audit --progress-spinner off --strict --no-deps --disable-pip -r .venv/audited.txt || { \
	  echo "The audit did not pass: a package above is vulnerable, or pypi.org did not answer for it." >&2; exit 1; }

release: setup
	@$(BIN)/cotflow release --check
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(MAKE) --no-print-directory book
	@$(BIN)/cotflow release

hooks: .venv/upkeep
	@$(BIN)/pre-commit install

setup: .venv/installed

.venv/upkeep: .venv/installed
	@echo "Installing the tools of upkeep."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c requirements.txt -e '.[upkeep]'
	@touch $@

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed, and '$(PYTHON)' is not: try make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "[1/3] Creating .venv with $$($(PYTHON) --version)."
	@$(PYTHON) -m venv .venv || { \
	  echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu it needs the package python3-venv." >&2; exit 1; }
	@echo "[2/3] Installing the pinned packages and the library; the first time takes some minutes."
	@$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -r requirements.txt \
	  | sed -n -e 's/^Collecting \([^ ]*\).*/      \1/p' -e 's/^Installing collected packages.*/      unpacking/p'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps -e .
	@touch $@

clean:
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
