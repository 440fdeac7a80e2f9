# make quickstart: set up, train on real pictures for two or three minutes, validate, report
# make test: set up, then every check that CI runs
# make PYTHON=python3.10 ...: with another Python (3.9 to 3.12, the range of MindSpore's wheels)

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3.9 python3; do command -v $$p && break; done)
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input

# make benchmark: every family's speed here, the data pipeline's, and how speed falls with size, depth and batch (about half an hour on 2 cores)
# make compare TORCH_PYTHON=VENV/bin/python: beside mindcv and PyTorch, with all instructions and with AVX2 alone
BENCHMARKED ?= crossvit_9 cvt_13_224 crossformer_tiny xcit_tiny_12_p16_224
MEASURE = $(BIN)/python -m mindvit.tools.benchmark
BATCH_SIZES = 1 4 16
VARIANTS = crossvit_tiny crossvit_small crossvit_9_dagger cvt_21_224 xcit_nano_12_p16_224 xcit_tiny_12_p8_224 xcit_small_12_p16_224

# tests spend most of their time in MindSpore's graph compiler, which uses one core; a file's tests share what they compiled
SIDE_BY_SIDE = --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: quickstart test test-oldest test-interop lint goldens benchmark profile compare docs site notebook clean

quickstart: $(VENV)/ready
	$(BIN)/python train.py --config configs/quickstart/crossvit_digits.yaml
	$(BIN)/python validate.py --config configs/quickstart/crossvit_digits.yaml --ckpt_path runs/quickstart/crossvit_9-best.ckpt

# the goldens apart, a few networks at a time: MindSpore gives the memory of a compiled graph back when the process ends, and not before
test: $(VENV)/ready-for-tests lint
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --ignore=tests/test_goldens.py
	for networks in "not xcit and not cvt" cvt xcit_nano xcit_small "xcit and not nano and not small"; do \
		$(BIN)/python -m pytest tests/test_goldens.py -k "$$networks" || exit 1; done

# the lowest versions that are supported, on what depends on them most
test-oldest:
	@$(PYTHON) scripts/check_python.py
	@$(PYTHON) -m venv $(VENV)-oldest
	@$(VENV)-oldest/bin/python -m pip --disable-pip-version-check --quiet --no-input install -r requirements.txt -c requirements-oldest.txt pytest
	$(VENV)-oldest/bin/python -m pytest tests/test_step.py tests/test_weights.py tests/test_parts.py tests/test_kernels.py "tests/test_goldens.py::test_logits[crossvit_9]"

# files that torch, timm, transformers and paddle write, and ours read by them; they need another NumPy than MindSpore, hence an environment of their own
test-interop: $(VENV)/ready-for-tests
	@$(PYTHON) -m venv $(VENV)-interop
	@$(VENV)-interop/bin/python -m pip --disable-pip-version-check --quiet --no-input install -r requirements-interop.txt
	$(VENV)-interop/bin/python tests/interop/write_files.py $(VENV)-interop/files
	MINDVIT_INTEROP=$(VENV)-interop/files $(BIN)/python -m pytest tests/test_interop.py -m interop -s
	$(VENV)-interop/bin/python tests/interop/read_back.py $(VENV)-interop/files/back
	rm -r $(VENV)-interop/files

lint: $(VENV)/ready-for-tests
	$(BIN)/ruff check .
	$(BIN)/python scripts/write_docs.py --check
	@# not --quiet: it would hide the warnings that --strict counts
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/mypy
	$(BIN)/pylint --disable=all --enable=similarities --min-similarity-lines=8 --ignore-imports=y --ignore-signatures=y mindvit tests *.py

goldens: $(VENV)/ready-for-tests
	$(BIN)/python tests/golden.py

benchmark: $(VENV)/ready
	$(MEASURE) $(BENCHMARKED) --mode forward --batch_size 8
	$(MEASURE) $(BENCHMARKED) --mode train --batch_size 8 --compile_cache $(VENV)/graphs
	$(MEASURE) --mode data --config configs/crossvit/crossvit_9_ascend.yaml
	rm -rf results/scaling
	for size in 224 384 512; do $(MEASURE) xcit_tiny_12_p16_224 --batch_size 8 --image_resize $$size --out results/scaling || exit 1; done
	$(MEASURE) xcit_tiny_24_p16_224 --batch_size 8 --out results/scaling
	for batch in $(BATCH_SIZES); do $(MEASURE) xcit_tiny_12_p16_224 --batch_size $$batch --out results/scaling || exit 1; done
	$(MAKE) profile
	$(BIN)/python scripts/write_docs.py

# what a training step consists of without and with our own kernels
profile: $(VENV)/ready
	@rm -f results/profile.md; mkdir -p build
	for model in crossvit_9 xcit_tiny_12_p16_224; do for kernels in 0 1; do \
		printf '\n%s, `MINDVIT_KERNELS=%s`:\n\n' $$model $$kernels >> results/profile.md; \
		MINDVIT_KERNELS=$$kernels $(MEASURE) $$model --mode train --batch_size 8 --profile --out build/profile > build/profile.txt || exit 1; \
		sed -n '/^| operator/,/ms a step/p' build/profile.txt | sed 's/^[0-9.]* ms a step/\n&/' >> results/profile.md; done; done

compare: $(VENV)/ready-for-tests
	@test -n "$(TORCH_PYTHON)" || { echo "make compare TORCH_PYTHON=FILE: a Python with torch, timm, torchvision and transformers"; exit 2; }
	$(PIP) install mindcv==0.3.0 -r requirements.txt
	$(BIN)/python benchmarks/compare.py --torch_python $(TORCH_PYTHON)
	$(BIN)/python benchmarks/compare.py --torch_python $(TORCH_PYTHON) --isa avx2
	for isa in native avx2; do $(BIN)/python benchmarks/compare.py --torch_python $(TORCH_PYTHON) --isa $$isa --models $(VARIANTS) --modes train \
		--peers "torch eager" --rounds 2 --steps 5 --out results/variants || exit 1; done
	$(BIN)/python benchmarks/compare.py --data
	$(BIN)/python scripts/write_docs.py

$(VENV)/ready: requirements.txt setup.py
	@$(PYTHON) scripts/check_python.py
	@echo "setting up $(VENV) (MindSpore is a download of a few hundred MB) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -r requirements.txt
	@$(PIP) install --no-deps --editable .
	@touch $@

$(VENV)/ready-for-tests: requirements-dev.txt requirements-report.txt requirements-docs.txt $(VENV)/ready
	@$(PIP) install -r requirements-dev.txt
	@touch $@

docs: $(VENV)/ready
	$(BIN)/python scripts/write_docs.py

# build/site/index.html
site: $(VENV)/ready-for-tests docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# the notebook with what it prints and draws
notebook: $(VENV)/ready-for-tests
	$(BIN)/python scripts/run_notebook.py docs/notebook.ipynb

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-interop build runs .cache .pytest_cache .mypy_cache .ruff_cache
