# Two commands for a newcomer: `make demo` and `make test`. Everything they need they make themselves.

VENV   := .venv
BIN    := $(VENV)/bin
# The first Python of 3.10 to 3.12 that runs; `make PYTHON=...` chooses another.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
            $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
DATASET ?=
HOSTS  := 4
RUN    := demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: help demo test lint bench chaos fuzz testbed testbed-down clean

help:
	@echo "make demo   train, evaluate and collect SKNet50 on two CPU ranks (DATASET=DIR: on your own CIFAR-10)"
	@echo "make test   all tests"
	@echo "make lint   ruff and mypy"
	@echo "make fuzz   throw a million damaged texts at all that reads texts from outside (INPUTS=N: fewer)"
	@echo "make bench  start-up and training beside msrun, torchrun, PyTorch and a shell loop (an hour)"
	@echo "make chaos  25 faults put into runs of MindSpore, one after another, as root (half an hour)"
	@echo "make testbed  HOSTS=4 hosts on this machine to play with, as root; make testbed-down BED=N takes them away"
	@echo "make clean  remove what these commands made, but no runs"

$(VENV)/.for-%: setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "ascendrun needs Python 3.10, 3.11 or 3.12: make PYTHON=/path/to/python3.11 $*" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[cpu$(if $(filter demo,$*),,$(if $(filter bench,$*),$(comma)bench,$(comma)test))]'
	@touch $@

comma := ,

demo: $(VENV)/.for-demo
	$(if $(DATASET),,$(BIN)/python -m sknet.sample demo-data $(SAMPLE))
	$(BIN)/ascendrun launch sknet50-cpu --devices 2 --dataset '$(or $(DATASET),demo-data)' --name $(RUN)
	$(BIN)/ascendrun eval $(RUN)
	$(BIN)/ascendrun collect $(RUN)

SAMPLE := --train 384 --test 200

test: $(VENV)/.for-test lint
	$(BIN)/python -m pytest -n 3 --dist worksteal  # most tests wait, for other processes

lint: $(VENV)/.for-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.for-bench
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/sknet_throughput.py
	$(BIN)/python bench/reader.py
	$(BIN)/python bench/rank_table.py
	$(BIN)/python bench/supervisor.py
	$(BIN)/python bench/explain.py
	$(BIN)/python bench/restart.py
	$(BIN)/python bench/doctor.py

fuzz: $(VENV)/.for-test
	$(BIN)/python -m tests.fuzz --inputs $(or $(INPUTS),1000000)

# What the tests do with ranks that sum by sockets, with real collectives.
chaos: $(VENV)/.for-test
	$(BIN)/python -m tests.chaos

testbed: $(VENV)/.for-demo
	@$(BIN)/python -m tests.testbed up $(HOSTS)

testbed-down: $(VENV)/.for-demo
	@$(BIN)/python -m tests.testbed $(if $(BED),--bed $(BED)) down

clean:
	rm -rf $(VENV) demo-data build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
