# Everything runs in .venv, made from the locks. Needs Python 3.11+ and nothing else.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

RUN_LOCK := --require-hashes --requirement requirements.lock
DEV_LOCK := $(RUN_LOCK) --requirement requirements-dev.lock
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet
UV := $(VENV)/bin/uv
# Compiled once, as pip does; otherwise each process may compile what it imports, for seconds.
UV_INSTALL := $(UV) pip install --quiet --compile-bytecode --python $(VENV)/bin/python
# uv takes a third of pip's time, but does not read pip's settings: behind a mirror that only those
# name, pip has to install. Both check the same hashes.
install = { test -x $(UV) && $(UV_INSTALL) $(1); } || \
	{ echo "uv cannot install here; pip does, which takes longer"; $(PIP_INSTALL) $(1); }

# Tests often wait for a server or a disk, so that three processes keep two cores busy.
PYTEST := $(VENV)/bin/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# Hundreds of processes import this code: it is compiled once, whatever the shell has set.
unexport PYTHONDONTWRITEBYTECODE

# What must hold on every processor: the bytes and numbers that everything else is made from.
NARROW := tests/core/clustering tests/core/test_features.py tests/core/training \
	tests/stages/test_extract.py tests/stages/test_cluster.py tests/stages/test_train.py \
	tests/faults/test_mid_epoch.py

NARROWED := $(VENV)/bin/python -m tests.processors
NARROW_TESTS := $(VENV)/bin/pytest --quiet --numprocesses 2 --dist loadfile $(NARROW)

.PHONY: demo test test-narrow test-slow lint docs wheel serve bench lock clean

demo: $(INSTALLED)
	$(VENV)/bin/deepcluster run configs/demo.yaml $(ARGS)

# All tests that take seconds.
test: $(INSTALLED_DEV)
	$(PYTEST) $(ARGS)

# With the kernels that libraries choose on older processors, if this one is newer; see
# tests/processors.py.
test-narrow: $(INSTALLED_DEV)
	$(NARROWED) --if-older avx2 -- $(NARROW_TESTS)

# What takes too long for every change: servers, kills, full disks, whole runs as processes, transfer
# learning, fuzzing, processors without AVX, and the rarer commands of the README and docs.
test-slow: $(INSTALLED_DEV)
	$(NARROWED) sse41 -- $(NARROW_TESTS)
	$(PYTEST) -m slow $(ARGS)

lint: $(INSTALLED_DEV)
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
bench: $(INSTALLED_DEV)
	for name in epoch stages bound loading learning cluster scaling ranks storage overhead remote people transfer; do \
		$(VENV)/bin/python -m benchmarks.$$name --quick $(ARGS) || exit; done
	$(VENV)/bin/python -m benchmarks.report benchmarks/results/quick

$(INSTALLED): requirements.lock requirements-uv.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --require-hashes --requirement requirements-uv.lock 2>/dev/null || true
	@echo "installing requirements.lock into $(VENV): a minute or more, about 8 GB"
	@$(call install,$(RUN_LOCK))
	@$(call install,--no-deps --no-build-isolation --editable .)
	@touch $@

$(INSTALLED_DEV): $(INSTALLED) requirements-dev.lock
	@echo "installing requirements-dev.lock into $(VENV)"
	@$(call install,$(DEV_LOCK))
	@touch $@

$(VENV)/.docs: $(INSTALLED) requirements-docs.lock
	@$(call install,--require-hashes --requirement requirements-docs.lock)
	@touch $@

# Takes the newest versions that fit together; commit the result with the tests passing.
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --upgrade
lock: $(INSTALLED)
	$(PIP_INSTALL) --upgrade uv
	echo uv | $(COMPILE) - --output-file requirements-uv.lock
	$(COMPILE) pyproject.toml --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra dev --constraints requirements.lock \
		$$(sed -n 's/^\([^ ]*\)==.*/--no-emit-package \1/p' requirements.lock) \
		--output-file requirements-dev.lock
	$(COMPILE) --group docs --constraints requirements.lock --output-file requirements-docs.lock

clean:
	rm -rf $(VENV)
