# make setup | demo | test | test-long | check | fmt | up | docs: each makes the environment (.venv) itself if it is missing.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# torch goes first and alone, pinned, so that nothing else pulls another build of it. On Linux without a GPU the plain
# wheel brings gigabytes of CUDA: name PyTorch's index of CPU wheels (or a folder of wheels) to leave them out, e.g.
#   make setup TORCH_FROM='--index-url <index of CPU wheels>'
TORCH_FROM ?=

export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo test test-long check fmt up docs clean
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch $(TORCH_FROM) -c constraints.txt
	$(BIN)/python -m pip install --quiet --editable '.[dev,server]' -c constraints.txt
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/finsent demo

# two processes, whole files to each in the order of tests/conftest.py; what several files need is built once for both
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(STAMP)
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

up: $(STAMP)
	@$(BIN)/finsent up

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]' -c constraints.txt
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
