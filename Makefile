# One door for every task; CI uses the same names. `make help` lists them. Works with GNU make 3.81 (macOS) and later.
#
#   ARGS    goes to the program behind the target:  make lab ARGS=--no-browser    make test ARGS="-k pasid -x"
#   PYTHON  makes the virtual environment:          make lab PYTHON=python3.12
#   STEPS, JOBS, SEED, REPLAY, IOMMU  are for the long search:  make nightly IOMMU=smmuv3 STEPS=100000 JOBS=2 SEED=7

PYTHON ?= python3
ARGS ?=
STEPS ?= 1000000
SEED ?= 1
IOMMU ?= vtd

VENV := .venv
PY := $(VENV)/bin/python
LESSON := notebooks/00_what_is_a_pasid.ipynb
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# A virtual environment and an editable install hold absolute paths, and need their Python: where one of these is gone
# (the folder was moved or copied, the system upgraded), start afresh.
MADE_FOR := $(VENV)/made-for
$(shell test -x $(PY) && test "$$(cat $(MADE_FOR) 2>/dev/null)" = "$(CURDIR)" || rm -f $(MADE_FOR))

# $(call missing,PROGRAM,PACKAGE): say it loudly and go on, the tests that need it fail by themselves.
missing = printf '\n*** MISSING: $(1). Tests that need it will FAIL. Install it: %s or %s ***\n\n' \
    'apt-get install $(2)' 'brew install $(2)' >&2

.DEFAULT_GOAL := help
.PHONY: help lab test nightly check format bench pictures binder-rehearsal clean

help:
	@echo 'make lab               open the lessons in JupyterLab'
	@echo 'make test              run every test, also those in a real browser'
	@echo 'make nightly           a million steps of hostile guests, everything checked after each; planted bugs'
	@echo 'make check             formatting, lint, strict types; changes nothing'
	@echo 'make format            format the code, repair what the linter can repair'
	@echo 'make bench             print the measured speeds beside their targets'
	@echo 'make pictures          draw the pictures of README and docs from the model'
	@echo 'make binder-rehearsal  build what Binder would build, without a container engine'
	@echo 'make clean             remove the virtual environment and all caches'

lab: $(VENV)/lab.stamp
	$(PY) -m jupyterlab $(AS_ROOT) --LabApp.default_url=/lab/tree/$(LESSON) $(ARGS)

test: $(VENV)/dev.stamp
	@command -v dot >/dev/null || $(call missing,dot,graphviz)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	    || $(call missing,chromium,chromium)
	$(PY) -m pytest $(ARGS)

nightly: $(VENV)/dev.stamp
	$(PY) -m tests.properties.isolation_nightly --iommu $(IOMMU) --steps $(STEPS) --seed $(SEED) $(if $(JOBS),--jobs $(JOBS)) \
	    $(if $(REPLAY),--replay $(REPLAY),--planted 60) $(ARGS)

check: $(VENV)/dev.stamp
	$(PY) -m ruff format --check
	$(PY) -m ruff check
	$(PY) -m mypy

format: $(VENV)/dev.stamp
	$(PY) -m ruff check --fix-only
	$(PY) -m ruff format

bench: $(VENV)/dev.stamp
	$(PY) -m tests.benchmarks $(ARGS)

pictures: $(VENV)/dev.stamp
	$(PY) docs/pictures/draw.py

binder-rehearsal: $(VENV)/dev.stamp
	$(PY) -m tests.binder.rehearse $(ARGS)

clean:
	rm -rf $(VENV) build dist test-results .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

# The stamps: made once, and again when pyproject.toml changes. A step that fails leaves no stamp.
$(VENV)/lab.stamp: pyproject.toml binder/overrides.json $(MADE_FOR)
	$(PY) -m pip install --disable-pip-version-check --quiet --editable '.[lab]'
	mkdir -p $(VENV)/share/jupyter/lab/settings
	cp binder/overrides.json $(VENV)/share/jupyter/lab/settings/overrides.json
	touch $@

$(VENV)/dev.stamp: $(VENV)/lab.stamp
	$(PY) -m pip install --disable-pip-version-check --quiet --editable '.[test,check]'
	touch $@

$(MADE_FOR):
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python must be 3.11 or newer, not %d.%d (%s). Name another one, as in: make lab PYTHON=python3.12" % (v[0], v[1], sys.executable))'
	$(PYTHON) -m venv --clear $(VENV)
	@echo "$(CURDIR)" > $@
