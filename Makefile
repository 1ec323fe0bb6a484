# Two commands on a fresh machine: `make demo` and `make test`. Both make their own .venv and may be run again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(BIN)/understudy demo

test: $(VENV)/.installed-test understudy
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-test understudy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: a range asked for by another package would take a CUDA build of several GB.
$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing understudy into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.installed
	@echo "installing the test extras into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

# The type checker reads the package through this link, because the five folders are one namespace.
understudy:
	ln -s . understudy

clean:
	rm -rf $(VENV) understudy build dist *.egg-info
