# Everything runs in .venv, made from requirements.lock. Needs Python 3.11+ and nothing else.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

# What must hold on every processor: the bytes and numbers that everything else is made from.
NARROW := tests/core/clustering tests/core/test_features.py tests/core/training \
	tests/stages/test_extract.py tests/stages/test_cluster.py tests/stages/test_train.py \
	tests/faults/test_mid_epoch.py

.PHONY: demo test test-narrow test-slow lint docs wheel serve bench lock clean

demo: $(INSTALLED)
	$(VENV)/bin/deepcluster run configs/demo.yaml $(ARGS)

test: lint test-narrow
	$(VENV)/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# With the kernels that libraries choose on older processors; see tests/processors.py.
test-narrow: $(INSTALLED)
	$(VENV)/bin/python -m tests.processors avx2 sse41 -- $(VENV)/bin/pytest --quiet \
		--numprocesses 2 --dist loadfile -k "not told_to_end" $(NARROW)

# What takes too long for every change: longer fuzzing, more kills, rarer commands of the README.
test-slow: $(INSTALLED)
	$(VENV)/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m slow $(ARGS)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright
	$(VENV)/bin/lint-imports

# The site, in site/. A broken link or reference is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict $(ARGS)

# In dist/; needs pip alone.
wheel:
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

serve: $(INSTALLED)
	$(VENV)/bin/deepcluster serve $(ARGS)

# Small sizes, minutes in all; `python -m benchmarks.NAME` without --quick takes the full ones.
bench: $(INSTALLED)
	for name in epoch stages loading learning cluster scaling storage overhead transfer; do \
		$(VENV)/bin/python -m benchmarks.$$name --quick $(ARGS) || exit; done
	$(VENV)/bin/python -m benchmarks.report benchmarks/results/quick

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.docs: $(INSTALLED) requirements-docs.lock
	$(VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements-docs.lock
	@touch $@

# Takes the newest versions that fit together; commit the result with the tests passing.
lock: $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet uv
	$(VENV)/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --upgrade --output-file requirements.lock
	$(VENV)/bin/uv pip compile --group docs --constraint requirements.lock --universal \
		--python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade \
		--output-file requirements-docs.lock

clean:
	rm -rf $(VENV)
