# Everything a newcomer or CI runs.  VENV and PYTHON may be given: make test VENV=/somewhere/venv

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
REQUIREMENTS := setup.py constraints.txt
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check format install constraints settings-page train-tiny dist clean

demo: $(VENV)/.installed  ## Set up, make sample shards, score them with the bundled model, query them
	rm -rf demo-data demo-out
	$(BIN)/python -m clipsieve.demo demo-data --rows 2000 --shards 4
	$(BIN)/clipsieve run 'demo-data/*.parquet' demo-out --model tiny
	$(BIN)/clipsieve audit demo-out
	$(BIN)/clipsieve reconcile demo-out
	$(BIN)/clipsieve sql demo-out "SELECT status, count(*), avg(clip_score) FROM scores GROUP BY status ORDER BY 2 DESC"

test: check  ## Set up and run lint, types and the whole test suite
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: | $(VENV)/bin/python  ## Set up; EXTRAS=dask,s3 installs these extras too
	$(PIP_INSTALL) --editable '.$(if $(EXTRAS),[$(EXTRAS)])'
	touch $(VENV)/.installed

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "clipsieve needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(REQUIREMENTS) | $(VENV)/bin/python
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(REQUIREMENTS) | $(VENV)/bin/python
	$(PIP_INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.installed

constraints:  ## Write the versions of a fresh installation into constraints.txt
	rm -rf build/constraints-venv && $(PYTHON) -m venv build/constraints-venv
	build/constraints-venv/bin/pip install --quiet --editable '.[dev]'
	echo '# Exact versions that CI and the Makefile install with; regenerate with `make constraints`.' > constraints.txt
	build/constraints-venv/bin/pip freeze --exclude-editable >> constraints.txt

settings-page: $(VENV)/.installed  ## Write the pages that are made from definitions in the code
	$(BIN)/python -c 'import clipsieve.settings as s; print(s.settings_page(), end="")' > docs/settings.md
	$(BIN)/python -c 'import clipsieve.schemas.events as s; print(s.events_page(), end="")' > docs/events.md
	$(BIN)/python -c 'import clipsieve.schemas.events as s; print(s.schema_text(), end="")' > docs/events.schema.json

train-tiny: $(VENV)/.installed-dev  ## Train the bundled model anew: about ten CPU minutes
	$(BIN)/python -m clipsieve.demo.train src/clipsieve/demo/tiny
	$(BIN)/python -m clipsieve.demo.evaluate

dist: $(VENV)/.installed-dev  ## Build through the sdist: a wheel from a stale build folder ships deleted modules
	rm -rf build dist
	$(BIN)/python -m build

clean:
	rm -rf build dist demo-data demo-out .mypy_cache .pytest_cache .ruff_cache
