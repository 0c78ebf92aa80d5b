# The book, its tests and its notebooks. `make help` lists what there is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?=
PIP_ARGS ?=
UV_ARGS ?=
WORKERS ?= 2
BIN := .venv/bin
PAGE := _build/html/index.html
PDF := _build/cotflow.pdf

# Of these, the first that can make a virtual environment makes .venv.
PYTHONS := $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3 python)
FITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))

# Of the front page, which is written last: a book without it is not whole.
ADDRESS := import pathlib; print(pathlib.Path("$(PAGE)").absolute().as_uri())

# Python's files and messages are UTF-8 whatever the machine's language.
export PYTHONUTF8 := 1

.PHONY: help book pdf lint quick test notebooks bench bench-gpu audit lock release hooks setup clean

help:
	@echo "make book       build the book into _build/html (sets up .venv first, if needed)"
	@echo "make pdf        the whole book as $(PDF); needs chromium or chrome"
	@echo "make quick      ruff, mypy, and the tests that need no book, no notebook and no sweep"
	@echo "make test       ruff, mypy and all tests (sets up .venv first, if needed)"
	@echo "make notebooks  write the chapters as notebooks"
	@echo "make bench      measure the cost of a step for the chapter on solvers (JAX is compared if installed)"
	@echo "make bench-gpu  test the kernels on this machine's CUDA device and measure a step there, in under 8 minutes"
	@echo "make audit      look up known vulnerabilities of every installed package (asks pypi.org: needs the network)"
	@echo "make lock       renew requirements.txt from pyproject.toml; what is pinned stays (needs the network)"
	@echo "make release    build the book from a clean tree and pack it with its ledger and checksums into dist/"
	@echo "make hooks      have git run the checks of .pre-commit-config.yaml before every commit"
	@echo "make setup      only .venv, with the locked packages and the library"
	@echo "make clean      remove what was built, and every cached execution"
	@echo
	@echo "PYTHON=python3.12 chooses the interpreter of a new .venv: the newest of 3.11 to 3.14 on the PATH otherwise."
	@echo "WORKERS=1 runs the tests one after another."
	@echo "PIP_ARGS='...' is passed to pip, for instance an extra index with a CPU build of torch."
	@echo "UV_ARGS=--upgrade has make lock take the newest versions."

# jupyter-book may accept a page that failed in an earlier build, as long as its doctree is there:
# pages are read anew every time, and only the outputs of unchanged cells come from the cache.
book: setup
	@echo "[3/3] Building the book: chapters whose code or library changed are executed side by side."
	@mkdir -p _build; exec 9> _build/.lock; \
	  if command -v flock >/dev/null && ! flock -n 9; then \
	    echo "Another make book is at work in $$PWD: wait for its end." >&2; exit 1; \
	  fi; \
	  rm -rf _build/.doctrees _build/html; \
	  ended() { rm -rf _build/html; echo "Interrupted: no half-built book was left behind." >&2; exit "$$1"; }; \
	  trap 'ended 129' HUP; trap 'ended 130' INT; trap 'ended 143' TERM; \
	  $(BIN)/jupyter-book build . -W -n --keep-going || { code=$$?; [ $$code -le 128 ] || ended $$code; exit $$code; }
	@test -f $(PAGE)
	@echo
	@echo "The book is $$PWD/$(PAGE)"
	@echo "To open it: $(BIN)/python -m webbrowser $$($(BIN)/python -c '$(ADDRESS)')"

# The browser is looked for first: the book takes minutes.
pdf: setup
	@$(BIN)/python -m cotbook.keep.pdf --check
	@$(MAKE) --no-print-directory book
	@echo "Printing $(PDF); this takes a minute or two."
	@$(BIN)/python -m cotbook.keep.pdf _build/html $(PDF)
	@echo "The PDF is $$PWD/$(PDF)"

lint: setup
	@echo "[3/4] Checking the sources."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

quick: lint
	@echo "[4/4] Running the quick tests."
	@$(BIN)/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist loadfile

test: lint
	@echo "[4/4] Running the tests; the first run also builds the book."
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

notebooks: setup
	@$(BIN)/cotflow notebooks

bench: setup
	@$(BIN)/cotflow bench

bench-gpu: setup
	@$(BIN)/cotflow bench --gpu

# Strict: a package that could not be looked up fails the audit too. PyPI knows no local builds, such as torch's +cpu.
audit: .venv/upkeep
	@$(BIN)/python -m pip list --disable-pip-version-check --format=freeze --exclude-editable | sed 's/+.*//' > .venv/audited.txt
	@$(BIN)/pip-audit --progress-spinner off --strict --no-deps --disable-pip -r .venv/audited.txt || { \
	  echo "The audit did not pass: a package above is vulnerable, or pypi.org did not answer for it." >&2; exit 1; }

# The comment at the top stays.
lock: .venv/upkeep
	@cp requirements.txt .venv/lock.txt
	@$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-emit-package pip \
	  --no-annotate --no-header --quiet $(UV_ARGS) --output-file .venv/lock.txt
	@{ grep '^#' requirements.txt; cat .venv/lock.txt; } > .venv/locked.txt
	@mv .venv/locked.txt requirements.txt

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
	@$(BIN)/python -m cotbook.keep.scripts
	@touch $@

.venv/bin/python:
	@found=""; seen=""; \
	for python in $(PYTHONS); do \
	  if "$$python" -c '$(FITS)' 2>/dev/null; then found=$$python; break; fi; \
	  ! command -v "$$python" >/dev/null || seen+="$${seen:+, }$$python ($$("$$python" --version 2>&1 | sed -n 1p || true))"; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Python 3.11 to 3.14 with its modules venv and ensurepip is needed; found: $${seen:-none}." \
	    "Install one (on Debian and Ubuntu: python3 and python3-venv)," \
	    "or name one that is not on the PATH: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; \
	fi; \
	echo "[1/3] Creating .venv with $$("$$found" --version)."; \
	"$$found" -m venv --clear .venv

.venv/installed: .venv/bin/python requirements.txt pyproject.toml
	@echo "[2/3] Installing the locked packages and the library; the first time takes some minutes."
	@$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c requirements.txt -e '.[book,sweep,test]' \
	  | sed -n -e 's/^Collecting \([^ ]*\).*/      \1/p' -e 's/^Installing collected packages.*/      unpacking/p'
	@$(BIN)/python -m cotbook.keep.scripts
	@touch $@

clean:
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis
