# Every target makes what it needs: the only things asked for are Python 3.11 or newer, make, and for `pip` a way to packages.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: simulate test browser test-all fuzz coverage bench docs hooks format clean

simulate: .venv/train  ## 100 simulated clients teach one head to recognise words
	$(BIN)/wordflock simulate

test: .venv/dev  ## everything that must hold before a change lands
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-all: .venv/dev  ## the slow tests as well: minutes of killed commands
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'not fuzz'

fuzz: .venv/dev  ## mutated recordings, archives, checkpoints, messages and tables
	$(BIN)/pytest --numprocesses 2 -m fuzz

browser:  ## what the tests in a real browser need: Debian's chromium and axe-core; without it they skip
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }
	npm install --no-package-lock --no-audit --no-fund --silent

coverage: .venv/dev  ## the tests once more, with the lines of wordflock/ that none of them runs
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --cov --cov-report term

bench: .venv/dev  ## every figure about speed, measured on this machine; BENCH="--data speech_commands.tar" for recordings
	$(BIN)/python -m benchmarks.bench $(BENCH)

docs: .venv/docs  ## the documentation as a website, in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

hooks: .venv/dev  ## check every commit before it is made
	$(BIN)/pre-commit install

format: .venv/dev  ## put the code into its usual form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and what tests leave behind; runs/ and the cache stay
	rm -rf .venv site .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/train: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[train]'
	touch $@

.venv/dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ .venv/train

.venv/docs: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@
