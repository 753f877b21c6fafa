# Every target builds .venv when it has to, and is quick when it stands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Threads that spin for a shared core cost more than they give.
export OMP_NUM_THREADS ?= 1

.PHONY: demo reproduce test lint types docs bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	# verifiers brings openai-agents, whose import name is that of our agents.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt verifiers
	$(BIN)/python -m pip uninstall --quiet --yes openai-agents
	touch $@

demo: $(READY)  ## Watch a small model seek and train on by GRPO, and write a report: ten minutes.
	$(BIN)/videoseek demo

reproduce: $(READY)  ## The same from random weights: an hour; goes on where it was stopped.
	$(BIN)/videoseek reproduce

test: $(READY)  ## Run all tests and doctests.
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)  ## Style, import arrows, strict types, spelling.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(READY)  ## Draw the plots and write the tables of the pages in docs/.
	$(BIN)/python docs/make_reward_plots.py
	$(BIN)/python docs/make_reward_tables.py
	$(BIN)/python docs/make_discrete_curves.py --arms

bench: $(READY)  ## Print the figures of docs/BENCHMARKS.md.
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## Remove what the other targets made.
	rm -rf $(VENV) .core-venv build dist .pytest_cache .mypy_cache .ruff_cache
