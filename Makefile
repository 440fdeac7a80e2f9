# make quickstart: set up, train on real images for two or three minutes, validate, report
# make test: set up, then every check that CI runs of one environment; make test-fast: what takes seconds of it
# make PYTHON=python3.10 ...: with another Python (3.9 to 3.12, the range of MindSpore's wheels)

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3.9 python3; do command -v $$p && break; done)
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input

# make benchmark: every family's speed here, the data pipeline's, and how speed falls with size, depth and batch (about half an hour on 2 cores)
# make compare TORCH_PYTHON=VENV/bin/python: beside mindcv and PyTorch, with all instructions, with AVX2 alone and in bfloat16; batch 32 and its memory; one image beside onnxruntime (about an hour)
BENCHMARKED ?= crossvit_9 cvt_13_224 crossformer_tiny xcit_tiny_12_p16_224
MEASURE = $(BIN)/python -m mindvit benchmark
BATCH_SIZES = 1 4 8 16 32 64
VARIANTS = crossvit_tiny crossvit_small crossvit_9_dagger cvt_21_224 xcit_nano_12_p16_224 xcit_tiny_12_p8_224 xcit_small_12_p16_224

SEGMENTORS = semantic_fpn_crossformer_small upernet_crossformer_small

# tests spend most of their time in MindSpore's graph compiler, which uses one core; a file's tests share what they compiled, and tests/conftest.py has the
# files that take longest run first
SIDE_BY_SIDE = --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# unless a make above this one already says how many
TWO_AT_A_TIME = $(MAKE) --no-print-directory $(if $(findstring jobserver,$(MAKEFLAGS)),,--jobs=2 --output-sync=target)
TIMED = scripts/timed.sh

# the goldens in processes of a few networks, what takes longest first: MindSpore gives the memory of a compiled graph back when the process ends, and not before
GOLDENS = test-goldens-crossvit-crossformer test-goldens-cvt test-goldens-xcit-nano test-goldens-xcit test-goldens-xcit-small
test-goldens-crossvit-crossformer: NETWORKS = not xcit and not cvt
test-goldens-xcit: NETWORKS = xcit and not nano and not small
test-goldens-xcit-small: NETWORKS = xcit_small
test-goldens-xcit-nano: NETWORKS = xcit_nano
test-goldens-cvt: NETWORKS = cvt

LINTS = lint-similar lint-types lint-site lint-docs lint-style

.PHONY: quickstart test test-fast test-units test-goldens $(GOLDENS) test-big test-big-dense test-big-goldens test-without-kernels test-requirements test-oldest test-interop test-aarch64 \
	lint $(LINTS) goldens goldens-segmentation benchmark profile compare docs site notebook clean

quickstart: $(VENV)/ready
	$(TIMED) quickstart-train $(BIN)/python train.py --config configs/quickstart/crossvit_digits.yaml
	$(TIMED) quickstart-validate $(BIN)/python validate.py --config configs/quickstart/crossvit_digits.yaml \
		--ckpt_path runs/quickstart/crossvit_9-best.ckpt

test: $(VENV)/ready-for-tests
	+$(TIMED) $@ $(TWO_AT_A_TIME) lint test-units test-goldens

# what compiles no network and starts no process: an answer in three minutes
test-fast: $(VENV)/ready-for-tests
	$(TIMED) $@ $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not big and not interop" --ignore=tests/models/test_goldens.py

test-units: $(VENV)/ready-for-tests
	$(TIMED) $@ $(BIN)/python -m pytest $(SIDE_BY_SIDE) --ignore=tests/models/test_goldens.py

test-goldens: $(VENV)/ready-for-tests
	+@$(TWO_AT_A_TIME) $(GOLDENS)

$(GOLDENS): $(VENV)/ready-for-tests
	$(TIMED) $@ $(BIN)/python -m pytest tests/models/test_goldens.py -k "$(NETWORKS)"

# what takes minutes: whole runs that are killed again and again, the commands on the pages that train, the notebook
test-big: $(VENV)/ready-for-tests
	$(TIMED) $@ $(BIN)/python -m pytest -m big --ignore=tests/models

# detectors and segmentors beside mmdetection's and mmsegmentation's, a file a process for the memory
test-big-dense: $(VENV)/ready-for-tests
	$(TIMED) $@-detection $(BIN)/python -m pytest -m big tests/models/test_detection.py
	$(TIMED) $@-segmentation $(BIN)/python -m pytest -m big tests/models --ignore=tests/models/test_detection.py --ignore=tests/models/test_goldens.py

test-big-goldens: $(VENV)/ready-for-tests
	$(TIMED) $@ $(BIN)/python -m pytest -m big tests/models/test_goldens.py

# the networks without our own kernels for CPUs, as on a machine without a compiler
test-without-kernels: $(VENV)/ready-for-tests
	$(TIMED) $@ env MINDVIT_KERNELS=0 $(BIN)/python -m pytest tests/layers/test_layers.py tests/models/test_goldens.py \
		-k "layers or (logits and (xcit_nano_12_p16 or cvt_13_224 or crossformer_tiny)) or (gradient and crossvit_9)"

# each requirements file alone, and after the others: it installs them into $(VENV)
test-requirements: $(VENV)/ready
	$(TIMED) $@ $(BIN)/python scripts/check_requirements.py

# the lowest versions that are supported, on what depends on them most
test-oldest:
	@$(PYTHON) scripts/check_python.py
	@$(PYTHON) -m venv $(VENV)-oldest
	@$(TIMED) $@-installed $(VENV)-oldest/bin/python -m pip --disable-pip-version-check --quiet --no-input install -r requirements.txt \
		-c requirements-oldest.txt pytest
	$(TIMED) $@ $(VENV)-oldest/bin/python -m pytest tests/engine/test_step.py tests/weights/test_weights.py tests/repository/test_files.py tests/kernels/test_kernels.py \
		"tests/models/test_goldens.py::test_logits[crossvit_9]"

# files that torch, timm, transformers and paddle write, and ours read by them; they need another NumPy than MindSpore, hence an environment of their own
test-interop: $(VENV)/ready-for-tests
	@$(PYTHON) -m venv $(VENV)-interop
	@$(TIMED) $@-installed $(VENV)-interop/bin/python -m pip --disable-pip-version-check --quiet --no-input install -r requirements-interop.txt
	$(TIMED) $@-written $(VENV)-interop/bin/python tests/interop/write_files.py $(VENV)-interop/files
	$(TIMED) $@ env MINDVIT_INTEROP=$(VENV)-interop/files $(BIN)/python -m pytest tests/weights/test_interop.py -m interop -s
	$(TIMED) $@-read-back $(VENV)-interop/bin/python tests/interop/read_back.py $(VENV)-interop/files/back
	$(TIMED) $@-peer $(VENV)-interop/bin/python tests/interop/check_peer.py
	rm -r $(VENV)-interop/files

# the usual host of an NPU: wheels of every dependency, both C++ sources, and the pixel functions on an emulated processor
test-aarch64:
	@$(PYTHON) -m venv $(VENV)-aarch64
	@$(TIMED) $@-installed $(VENV)-aarch64/bin/python -m pip --disable-pip-version-check --quiet --no-input install -r requirements-aarch64.txt
	$(TIMED) $@-wheels $(VENV)-aarch64/bin/python scripts/check_wheels.py
	$(TIMED) $@ env PYTHONPATH=. $(VENV)-aarch64/bin/python tests/aarch64/check.py

lint: $(VENV)/ready-for-tests
	+$(TIMED) $@ $(TWO_AT_A_TIME) $(LINTS)

lint-style: $(VENV)/ready-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/clang-format --dry-run --Werror mindvit/kernels/csrc/* mindvit/data/native.cpp tests/kernels/*.h benchmarks/*.cpp

lint-docs: $(VENV)/ready-for-tests
	$(BIN)/python scripts/write_docs.py --check

lint-site: $(VENV)/ready-for-tests
	@# not --quiet: it would hide the warnings that --strict counts
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint-types: $(VENV)/ready-for-tests
	$(BIN)/mypy

lint-similar: $(VENV)/ready-for-tests
	$(BIN)/pylint --disable=all --enable=similarities --min-similarity-lines=8 --ignore-imports=y --ignore-signatures=y mindvit tests *.py

goldens: $(VENV)/ready-for-tests
	$(BIN)/python tests/helpers/golden.py

# the same of segmentors beside mmsegmentation's: the worst deviation of everything that their tests compare
goldens-segmentation: $(VENV)/ready-for-tests
	printf '| what | worst deviation | tolerance |\n|---|---|---|\n' > results/goldens_segmentation.md
	MINDVIT_DEVIATIONS=results/goldens_segmentation.md $(BIN)/python -m pytest -m "big or not big" tests/models/test_segmentation.py
	$(BIN)/python scripts/write_docs.py

benchmark: $(VENV)/ready
	$(BIN)/python benchmarks/conditions.py
	$(MEASURE) $(BENCHMARKED) --mode forward --batch_size 8 --out results
	$(MEASURE) $(BENCHMARKED) --mode train --batch_size 8 --compile_cache $(VENV)/graphs --out results
	$(MEASURE) --mode data --config configs/crossvit/crossvit_9_ascend.yaml --out results
	rm -rf results/scaling
	for size in 384 512; do $(MEASURE) xcit_tiny_12_p16_224 --batch_size 8 --image_resize $$size --out results/scaling || exit 1; done
	$(MEASURE) xcit_tiny_24_p16_224 --batch_size 8 --out results/scaling
	for model in crossvit_9 xcit_tiny_12_p16_224; do for batch in $(BATCH_SIZES); do \
		$(MEASURE) $$model --batch_size $$batch --warmup 2 --steps $$((8 + 64 / batch)) --out results/scaling || exit 1; done; done
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
	$(BIN)/python benchmarks/compare.py --torch_python $(TORCH_PYTHON) --rounds 2 --steps 4
	$(BIN)/python benchmarks/compare.py --torch_python $(TORCH_PYTHON) --peers mindcv "torch eager" --isa avx2 --rounds 2 --steps 4
	$(BIN)/python benchmarks/compare.py --torch_python $(TORCH_PYTHON) --rounds 2 --steps 4 --dtype bfloat16 --modes train
	$(BIN)/python benchmarks/compare.py --torch_python $(TORCH_PYTHON) --models $(VARIANTS) --modes train --peers "torch eager" \
		--rounds 2 --steps 4 --out results/variants
	$(BIN)/python benchmarks/compare.py --torch_python $(TORCH_PYTHON) --peers onnxruntime "torch eager" --models $(BENCHMARKED) xcit_nano_12_p16_224 \
		--batch_size 1 --modes forward --rounds 3 --steps 30 --out results/latency
	$(BIN)/python benchmarks/compare.py --torch_python $(TORCH_PYTHON) --peers "torch eager" --models $(BENCHMARKED) --batch_size 32 --modes train \
		--rounds 1 --steps 3 --out results/memory
	$(BIN)/python benchmarks/compare.py --torch_python $(TORCH_PYTHON) --peers "torch eager" --models $(SEGMENTORS) --batch_size 2 \
		--rounds 2 --steps 2 --out results/segmentors
	rm -f results/detectors/compare.md
	$(BIN)/python benchmarks/compare_detectors.py --torch_python $(TORCH_PYTHON) --apart --rounds 2 --out results/detectors
	$(BIN)/python benchmarks/compare_detectors.py --torch_python $(TORCH_PYTHON) --models mask_rcnn_crossformer_small \
		--modes nms roi_align roi_align_grad --steps 5 --out results/detectors
	$(BIN)/python benchmarks/compare.py --data
	$(BIN)/python scripts/write_docs.py

$(VENV)/ready: requirements.txt setup.py
	@$(PYTHON) scripts/check_python.py
	@echo "setting up $(VENV) (MindSpore is a download of a few hundred MB) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(TIMED) installed $(PIP) install -r requirements.txt
	@$(PIP) install --no-deps --editable .
	@touch $@

$(VENV)/ready-for-tests: requirements-dev.txt requirements-report.txt requirements-onnx.txt requirements-hub.txt requirements-coco.txt requirements-serve.txt requirements-docs.txt $(VENV)/ready
	@$(TIMED) installed-for-tests $(PIP) install -r requirements-dev.txt
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
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-interop $(VENV)-aarch64 build runs .cache .pytest_cache .mypy_cache .ruff_cache
