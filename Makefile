# make demo   set up .venv, then run the main job on the embedded world: no network, about six minutes on two cores
# make test   set up .venv, then lint, formatting, import layers, types and all tests
# make docs   write docs/methods anew from what the methods say of themselves
# make fix    let ruff repair what it can
# make bench  the measurements that want the machine for themselves

PYTHON ?= python3
TORCH := torch==2.13.0
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: test demo docs fix bench clean .venv

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/pytest

demo: $(STAMP)
	$(BIN)/sparring demo

docs: $(STAMP)
	$(BIN)/sparring methods --pages docs/methods

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(PIP) install --quiet -c constraints.txt -e ".[dev,bench]"
	$(BIN)/pytest -m bench -n 0

.venv: $(STAMP)

# torch comes first and alone: what needs it must find the pinned one, not pull in another. On a machine without a GPU
# the CPU wheel is enough: make test PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu TORCH=torch==2.13.0+cpu
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
		|| { rm -rf .venv; echo "python3 cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing $(TORCH)"
	@$(PIP) install --quiet "$(TORCH)"
	@echo "installing sparring and its tools, versions from constraints.txt"
	@$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache build dist
