# Two commands do everything: `make quickstart` and `make test`. Both can be stopped and run again.

VENV := .venv
BIN := $(VENV)/bin
USE := $(VENV)/.installed-use
DEV := $(VENV)/.installed-dev

# Where this is set (most container images), every command would compile torch and all the rest again: 3 s each.
unexport PYTHONDONTWRITEBYTECODE

CAMPAIGNS := wheel infra model stores kills histories query

.DEFAULT_GOAL := help
.PHONY: help quickstart servers test test-flink lint nightly $(CAMPAIGNS:%=nightly-%) test-wheel bench constraints
.PHONY: reference-env reference-goldens clean

help:
	@echo "make quickstart   install, ingest the sample corpus, answer five questions"
	@echo "make servers      Elasticsearch and Milvus Lite for trials, until Ctrl-C; prints the configuration"
	@echo "make test         install and run every test that can run here"
	@echo "make test-flink   the tests on a real Flink cluster; its parts are fetched once"
	@echo "make lint         ruff, mypy --strict, import-linter"
	@echo "make nightly      the heavy campaigns, one after the other; make nightly-NAME one of: $(CAMPAIGNS)"
	@echo "make bench        tables of start-up, ingest and search times"
	@echo "make constraints  write the exact versions that the images install"
	@echo "make reference-goldens   run FlagEmbedding in an environment of its own, write the encoder's goldens"
	@echo "make clean        remove the environment"

quickstart:
	@infra/environment.sh announce
	@$(MAKE) --no-print-directory $(USE)
	@$(BIN)/m3 demo

servers: $(DEV)
	@$(BIN)/python -m tests.servers.trial $(if $(FOLDER),--folder "$(FOLDER)")

# Two workers on two cores: a second thread in each would only wait for the other's.
test: $(DEV)
	$(BIN)/m3 models pull m3-small
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not nightly and not flink" $(PYTEST_ARGS)

# The cluster's tests are one group, so in one process: it has two slots, and the machine as a rule two cores. What needs no
# cluster runs beside their waits. The limit is for a cluster that hangs, so that a slow machine is no failure.
test-flink: $(DEV)
	$(BIN)/m3 models pull m3-small
	OMP_NUM_THREADS=1 timeout 1500 $(BIN)/python -m pytest -n 2 --dist loadgroup -p no:randomly -m flink \
		tests/flink tests/pipelines/ingest/runners $(PYTEST_ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Stopped, it goes on with the campaign that was at work: the others have left a mark for this tree.
nightly: $(CAMPAIGNS:%=nightly-%)

$(CAMPAIGNS:%=nightly-%): nightly-%: $(DEV)
	@$(BIN)/m3 models pull m3-small
	infra/campaign.sh $*

test-wheel: $(DEV)
	infra/wheel.sh

bench: $(DEV)
	$(BIN)/m3 models pull m3-small
	$(BIN)/python tests/bench/help_time.py
	$(BIN)/m3 demo --json > /dev/null
	$(BIN)/python tests/bench/search_time.py -c "$$($(BIN)/python -c 'from m3core.home import m3_home; from m3core.zoo import m3_small; print(m3_home() / "demo" / m3_small.folder().name / "m3.toml")')"

# The exact versions that the images install.
constraints: $(DEV)
	@head -n 1 infra/images/constraints.txt > infra/images/constraints.new
	@$(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate --python-version 3.11 \
		--python-platform x86_64-manylinux_2_28 --extra all --extra milvus \
		pyproject.toml infra/images/constraints.in >> infra/images/constraints.new
	@mv infra/images/constraints.new infra/images/constraints.txt

# FlagEmbedding as the oracle of the encoder: tests/reference/README.md. MODEL may name another model.
MODEL := xlmr-2-layer m3-small
REFERENCE := .venv-reference

reference-env: $(REFERENCE)/.installed

reference-goldens: $(REFERENCE)/.installed $(DEV)
	$(BIN)/m3 models pull m3-small
	@small="$$($(BIN)/python -c 'from m3core.zoo import m3_small; print(m3_small.folder())')" && \
	for model in $(MODEL); do \
		$(REFERENCE)/bin/python -m tests.reference.golden "$$model" --m3-small "$$small" && \
		$(BIN)/python -m tests.reference.compare "$$model" --m3-small "$$small" || exit 1; \
	done

$(REFERENCE)/.installed: tests/reference/requirements.txt
	@"$$(infra/environment.sh find_python)" -m venv $(REFERENCE)
	@$(REFERENCE)/bin/python -m pip install --quiet uv && \
	$(REFERENCE)/bin/uv pip install --quiet --python $(REFERENCE)/bin/python --requirement $< || \
	$(REFERENCE)/bin/python -m pip install --quiet --requirement $<
	@touch $@

$(USE): pyproject.toml infra/environment.sh
	@infra/environment.sh install all
	@touch $@

$(DEV): pyproject.toml infra/environment.sh
	@infra/environment.sh install dev
	@touch $(USE) $@

clean:
	rm -rf $(VENV)
