# Two commands on a fresh machine with Python 3.11+: `make demo` runs everything from audio to a report, `make test` the
# fast tests; `make test-slow` runs those that take longer, `make test-all` both.
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: install demo test test-slow test-all lint format docs clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "wavlm_lightning needs Python 3.11 or later; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar off --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip check
	@touch $@

demo: install
	$(BIN)/wavlm demo

# Workers take tests from each other, so that none is left with a long file at the end.
test: install
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow

test-all: install
	$(PYTEST)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy wavlm_lightning

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache
