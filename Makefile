# Everything runs from a clean clone with python3 (3.11 or later, with venv) and make:
#   make demo             the chat site at http://127.0.0.1:8000/ (PORT=... for another port)
#   make test             the tests; ARGS="-k layers" for some of them
#   make soak             the long proofs of tests/deploy; ARGS="-k proof_2" for some of them
#   make test PYTHON=/path/to/python3.12       the same on another interpreter, in a venv of its own

PYTHON ?= python3
PORT ?= 8000
ARGS ?=

PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)
PYTHON_SERIES := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ifeq ($(origin PYTHON),file)
VENV ?= .venv
else
VENV ?= .venv-$(PYTHON_SERIES)
endif

MEMBERS := $(patsubst %/pyproject.toml,%,$(wildcard channels_core/pyproject.toml channels_django/pyproject.toml plugins/*/pyproject.toml))
STAMP := $(VENV)/.installed-$(PYTHON_VERSION)
BIN := $(VENV)/bin

.PHONY: help venv demo test soak check format bench coverage clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

venv: $(STAMP)

$(STAMP): pyproject.toml $(addsuffix /pyproject.toml,$(MEMBERS))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "'$(PYTHON)' is Python '$(PYTHON_VERSION)', and Python 3.11 or later is needed:" \
	       "run make PYTHON=/path/to/python3.11 (or later)" >&2; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit("%d.%d.%d" % sys.version_info[:3] != "$(PYTHON_VERSION)")' 2>/dev/null \
	  || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -qq --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install -qq 'hatchling>=1.27' 'editables>=0.5'
	$(BIN)/python -m pip install -qq --no-build-isolation --group dev $(addprefix -e ./,$(MEMBERS))
	@rm -f $(VENV)/.installed-* && touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/chat/manage.py demo --port $(PORT)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak tests/deploy $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run $(ARGS)

coverage: $(STAMP)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

clean:
	rm -rf .venv .venv-* .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find channels_core channels_django plugins tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
