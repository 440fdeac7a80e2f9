# make quickstart: set up, train on real pictures for two or three minutes, validate, report
# make test: set up, then every check that CI runs
# make PYTHON=python3.10 ...: with another Python (3.9 to 3.12, the range of MindSpore's wheels)

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3.9 python3; do command -v $$p && break; done)
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input

.PHONY: quickstart test test-oldest test-interop lint goldens docs site notebook clean

quickstart: $(VENV)/ready
	$(BIN)/python train.py --config configs/quickstart/crossvit_digits.yaml
	$(BIN)/python validate.py --config configs/quickstart/crossvit_digits.yaml --ckpt_path runs/quickstart/crossvit_9-best.ckpt

# the goldens apart, a few networks at a time: MindSpore gives the memory of a compiled graph back when the process ends, and not before
test: $(VENV)/ready-for-tests lint
	$(BIN)/python -m pytest --ignore=tests/test_goldens.py
	for networks in "not xcit and not cvt" cvt xcit_nano xcit_tiny xcit_small "xcit and not nano and not tiny and not small"; do \
		$(BIN)/python -m pytest tests/test_goldens.py -k "$$networks" || exit 1; done

# the lowest versions that are supported, on what depends on them most
test-oldest:
	@$(PYTHON) scripts/check_python.py
	@$(PYTHON) -m venv $(VENV)-oldest
	@$(VENV)-oldest/bin/python -m pip --disable-pip-version-check --quiet --no-input install -r requirements.txt -c requirements-oldest.txt pytest
	$(VENV)-oldest/bin/python -m pytest tests/test_step.py tests/test_weights.py tests/test_parts.py "tests/test_goldens.py::test_logits[crossvit_9]"

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
	$(BIN)/mkdocs build --quiet --strict
	$(BIN)/mypy
	$(BIN)/pylint --disable=all --enable=similarities --min-similarity-lines=8 --ignore-imports=y --ignore-signatures=y mindvit tests *.py

goldens: $(VENV)/ready-for-tests
	$(BIN)/python tests/golden.py

$(VENV)/ready: requirements.txt
	@$(PYTHON) scripts/check_python.py
	@echo "setting up $(VENV) (MindSpore is a download of a few hundred MB) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -r requirements.txt
	@touch $@

$(VENV)/ready-for-tests: requirements-dev.txt requirements-report.txt requirements-docs.txt $(VENV)/ready
	@$(PIP) install -r requirements-dev.txt
	@touch $@

docs: $(VENV)/ready
	$(BIN)/python scripts/write_docs.py

# build/site/index.html
site: $(VENV)/ready-for-tests docs
	$(BIN)/mkdocs build --quiet --strict

# the notebook with what it prints and draws
notebook: $(VENV)/ready-for-tests
	$(BIN)/python scripts/run_notebook.py docs/notebook.ipynb

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-interop build runs .cache .pytest_cache .mypy_cache .ruff_cache
