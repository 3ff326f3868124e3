# Every target makes what it needs by itself: a virtual environment under .venv/, the packages, the
# extension. A C compiler, Python 3.10 or later with its headers, and pip are enough; root is not
# needed. A changed C file or pyproject.toml rebuilds, a changed Python file is simply there.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= 4

# Where this is set, each of a thousand processes compiles the package anew: half of their start.
unexport PYTHONDONTWRITEBYTECODE

C_FILES := $(wildcard src/*.[ch] src/*/*.[ch] ring/*.[ch] redis_module/*.[ch] redis_module/*/*.[ch] \
	tests/*/*.[ch] tests/*/*/*.[ch])
SOURCES := setup.py pyproject.toml $(wildcard src/*.[ch] src/*/*.[ch] ring/*.[ch])

.PHONY: redis-module redis-module-proof ring-proof proof fuzz help demo ring-demo test lint analyze format share docs core-test threads pytest portable cross sanitize \
	debug-leaks soak soak-loader soak-ring bench interpreters wheels sdist sbom clean

help:
	@echo "make demo    the whole story in a minute: a server, the loader, eight workers (KEEP=1: stay up)"
	@echo "make ring-demo  a ring of Redis servers, killed and stopped under load (ARGS='--fixed --kind valkey')"
	@echo "make test    lint, the core's C tests, pytest (ARGS='-k name' goes to pytest)"
	@echo "make core-test the core's C tests alone; make -C tests/core has more (its Makefile says what)"
	@echo "make threads what threads share without a GIL, under ThreadSanitizer, without an interpreter"
	@echo "make pytest  the Python tests alone (ARGS='tests/test_cache.py -x')"
	@echo "make portable core and binding built as for macOS, tested here (WHOLE=1: with every test)"
	@echo "make cross   compiles the extension for macOS and musl with zig (ARGS='x86_64-linux-gnu.2.17')"
	@echo "make lint    clang-format, clang-tidy, ruff and mypy alone"
	@echo "make analyze clang's path-sensitive analyzer on every C file: minutes"
	@echo "make sanitize the binding's tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make debug-leaks references are counted by a Python built for it (DEBUG_PYTHON=python3-dbg)"
	@echo "make interpreters  pytest on every other CPython, 3.14 and 3.15 fetched (ARGS='3.14 --whole')"
	@echo "make wheels  the wheels and the sdist, audited and run (ARGS='--twice cp313-musllinux_x86_64')"
	@echo "make sdist   the sdist alone, dist/mmapcache-*.tar.gz: the same bytes on every machine"
	@echo "make sbom    the bill of materials of a release, dist/sbom.cdx.json (CycloneDX)"
	@echo "make share   the shell completions and the man page, after a change of the flags"
	@echo "make docs    the documentation as a site, build/docs/index.html; a warning fails it"
	@echo "make format  formats the C and Python files in place"
	@echo "make soak    loader and workers killed and stopped at random (ARGS='--seconds 150 --kills 0')"
	@echo "make soak-loader a loader that follows a database, through faults of all kinds (ARGS='--seconds 600')"
	@echo "make soak-ring a ring whose nodes are killed, stopped, added and drained (ARGS='--zookeeper --cuts')"
	@echo "make bench   the table of figures (QUICK=1: under 3 minutes; ARGS='...')"
	@echo "make proof   everything that proves the promises, one table (REDUCED=1: 15 minutes; ARGS=--write)"
	@echo "make fuzz    hostile files and BSON, half an hour each (SECONDS=n)"
	@echo "make redis-module  the ring's module for Redis and Valkey, redis_module/build/ring.so (ARGS=asan)"
	@echo "make redis-module-proof  its tests under AddressSanitizer, and with each deliberate fault"
	@echo "make ring-proof  the same, and with each deliberate fault of the ring's clients and agent"
	@echo "make clean   removes everything that these made"
	@echo "PYTHON=python3.12 chooses the interpreter, VENV=dir where the environments go"

demo: $(VENV)/demo/.installed
	KEEP=$(KEEP) $(VENV)/demo/bin/python -m demo $(ARGS)

# ARGS="--readme docs/ring.md" puts its page there.
ring-demo: $(VENV)/ring-demo/.installed
	$(VENV)/ring-demo/bin/python -m demo.ring $(ARGS)

# The first two beside each other, each printed when it is over; pytest by itself, whatever -j says,
# so that its closing line is the last one.
test:
	@$(MAKE) --no-print-directory -j2 -Orecurse lint core-test
	@$(MAKE) --no-print-directory pytest

lint: $(VENV)/test/.installed
	$(VENV)/test/bin/python tools/lint.py

analyze: $(VENV)/test/.installed
	$(VENV)/test/bin/python tools/lint.py --analyze

format: $(VENV)/test/.installed
	$(VENV)/test/bin/clang-format -i $(C_FILES)
	$(VENV)/test/bin/ruff check --fix
	$(VENV)/test/bin/ruff format

# Shell completions and the man page, which are in the repository.
share: $(VENV)/test/.installed
	$(VENV)/test/bin/python tools/make_share.py

# Every warning is an error: a link that leads nowhere, a public name that is on no page.
docs: $(VENV)/docs/.installed
	$(VENV)/docs/bin/python -m sphinx -b html -E -W --keep-going --quiet -j 2 \
		-d build/doctrees docs build/docs $(ARGS)
	@echo "docs: build/docs/index.html"

core-test:
	$(MAKE) -C tests/core test

# With each deliberate fault; and the binding compiled as for a free-threaded CPython, if PYTHON's
# headers are of one that can be (3.13 and later).
threads:
	$(MAKE) -C tests/threads $(or $(THREADS),test mutants headers)

pytest: $(VENV)/test/.installed
	$(VENV)/test/bin/python -m pytest -n $(JOBS) --dist loadfile \
		--no-loadscope-reorder $(ARGS)

# What macOS gets, on this machine: see docs/macos.md.
portable: $(VENV)/test/.installed
	$(VENV)/test/bin/python -m mypy --platform darwin --cache-dir build/mypy-darwin mmapcache
	$(MAKE) -C tests/core portable
	$(VENV)/test/bin/python tests/proof/portable.py $(if $(WHOLE),--whole) $(ARGS)

cross: $(VENV)/wheels/.installed
	$(VENV)/wheels/bin/python tools/cross_compile.py $(ARGS)

interpreters: $(VENV)/test/.installed
	PYTHONPATH=tools $(VENV)/test/bin/python tests/proof/interpreters.py $(ARGS)

wheels: $(VENV)/wheels/.installed
	$(VENV)/wheels/bin/zizmor --offline --quiet .github/workflows
	PYTHONPATH=tools $(VENV)/wheels/bin/python tools/wheels.py $(ARGS)

sdist: $(VENV)/wheels/.installed
	$(VENV)/wheels/bin/python tools/sdist.py

sbom: $(VENV)/release/.installed
	$(VENV)/release/bin/python tools/sbom.py $(VENV)/release/bin/cyclonedx-py

sanitize: $(VENV)/test/.installed
	$(VENV)/test/bin/python tests/proof/sanitize.py $(ARGS)

debug-leaks: $(VENV)/debug/.installed
	$(VENV)/debug/bin/python -m pytest tests/test_leaks.py -k reference_counts $(ARGS)

# Each says what to install when something is missing.
proof:
	$(PYTHON) tests/proof/run.py $(if $(REDUCED),--reduced) $(ARGS)

fuzz:
	$(PYTHON) tests/fuzz/run.py --seconds $(or $(SECONDS),1800) $(ARGS)

# Real processes, killed and stopped at random.
soak: $(VENV)/test/.installed
	$(VENV)/test/bin/python tests/proof/soak.py $(ARGS)

soak-loader: $(VENV)/test/.installed
	PYTHONPATH=tests $(VENV)/test/bin/python tests/proof/soak_loader.py $(ARGS)

soak-ring: $(VENV)/test/.installed
	PYTHONPATH=tests $(VENV)/test/bin/python -m ring.soak --seconds 600 $(ARGS)

bench: $(VENV)/bench/.installed
	$(VENV)/bench/bin/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

# The extras of pyproject.toml that each environment gets.
$(VENV)/demo/.installed: EXTRAS = demo
$(VENV)/ring-demo/.installed: EXTRAS = ring-demo
$(VENV)/test/.installed: EXTRAS = test,lint
$(VENV)/bench/.installed: EXTRAS = bench
$(VENV)/docs/.installed: EXTRAS = docs
$(VENV)/wheels/.installed: EXTRAS = wheels
$(VENV)/release/.installed: EXTRAS = release
$(VENV)/debug/.installed: EXTRAS = mongodb,debug
# Debian's is the package python3-dbg; any interpreter that was configured --with-pydebug will do.
DEBUG_PYTHON ?= python3-dbg
$(VENV)/debug/.created: PYTHON = $(DEBUG_PYTHON)

$(VENV)/%/.created: tools/make_venv.py
	$(PYTHON) tools/make_venv.py $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade "setuptools>=77"
	@touch $@

$(VENV)/%/.installed: $(VENV)/%/.created $(SOURCES)
	$(@D)/bin/python -m pip install --quiet --no-build-isolation --editable ".[$(EXTRAS)]"
	@touch $@

.PRECIOUS: $(VENV)/%/.created

redis-module:
	$(MAKE) -C redis_module $(ARGS)

# Its tests under AddressSanitizer, and that each deliberate fault in it is seen by one.
redis-module-proof: $(VENV)/test/.installed
	$(MAKE) -C redis_module asan
	EVERY=1 RING_MODULE=$(CURDIR)/redis_module/build/asan/ring.so $(VENV)/test/bin/python -m pytest \
		-n $(JOBS) -p no:cacheprovider -k redis $(wildcard tests/ring/test_module_*.py) $(ARGS)
	$(VENV)/test/bin/python tests/ring/faults.py

# And each of those that a history must show, the clients' and the agent's among them.
ring-proof: redis-module-proof
	PYTHONPATH=tests $(VENV)/test/bin/python -m ring.soak_faults

clean:
	-$(MAKE) -C redis_module clean
	-$(MAKE) -C tests/core clean
	-$(MAKE) -C tests/threads clean
	rm -rf $(VENV) build dist *.egg-info mmapcache/*.so mmapcache/*/*.so .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
