# SPDX-License-Identifier: GPL-2.0-or-later
# `make` says what there is. Each target installs what it needs and this host lacks.

PYTHON ?= python3
PY := .venv/bin/python
REAL_KERNEL := tools/testkernel/with-plug
TWO_PROCESSORS := tools/testkernel/run --kernel debian --timeout
SOURCES := setup.py pyproject.toml build_ffi.py $(wildcard vendor_headers/* libnlplug/*/*.[ch])
export PYTHON
export PYTHONDONTWRITEBYTECODE =  # empty, whatever the caller has set: else each test kernel compiles everything again

# pytest, believed only with its report
TESTED = $(PY) tools/tested build/$@.xml
PYTEST = $(PY) -m pytest --junitxml=build/$@.xml

# `make test` makes these, three at a time. The three runs of the kernel tests share the files: each takes the next one,
# but for those in build/taken, so none of them is complete without the others.
SHARED := kernel-test-1of3 kernel-test-2of3 kernel-test-3of3
PARTS := lint types $(wordlist 1,2,$(SHARED)) unit parity $(lastword $(SHARED))
REPORTS := $(SHARED) unit parity

# What of the kernel tests depends most on a second processor, and what User-Mode Linux lacks.
SHORT := epochs hold_and_release hold_exclusive hold_ends hold_expiry hold_uncounted threads_and_fork group guard_alone lane_hold
LACKING := $(addprefix tests/kernel/test_lane_neighbours.py::test_,a_tcx_program_of_this_kernel_is_reported an_nftables_chain_of_this_kernel_is_not_bypassed)

SCRIPTS := benchmarks/lab/run tests/matrix/run tests/matrix/packages tools/testkernel/run tools/fresh tools/mutants tools/parts tools/summary tools/tested

# ARGS, and the tests $(1) unless ARGS names some
tests = $(if $(filter tests/%,$(ARGS)),,$(1)) $(ARGS)

.PHONY: help demo test lint types unit parity kernel-test $(SHARED) smp-test smp-statuses smp-short skips wheel deb matrix matrix-deb matrix-pages fresh mutants fuzz docs pictures race faults smp-faults bench lab reload-bench clean for-demo for-test for-bench for-smp for-deb for-lab

help: ## this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv/built | for-demo ## the main job: hold the packets of a running ping, on a real kernel
	@$(REAL_KERNEL) $(PY) examples/demo/demo.py

test: .venv/test | for-test ## everything; stops at the first part that fails
	@$(PY) -m compileall -q libnlplug tests benchmarks examples
	@said=$$($(PY) -m pytest --collect-only -qq) || { echo "$$said"; exit 1; }  # as pytest compiles them, or each test kernel would
	@rm -rf build/taken
	@$(PY) tools/parts $(PARTS)
	@$(PY) tools/summary $(REPORTS:%=build/%.xml)

lint: .venv/test ## ruff
	$(PY) -m ruff check . $(SCRIPTS)

types: .venv/test ## mypy
	$(PY) -m mypy

unit: .venv/test | for-test ## the unit tests; ARGS goes to pytest: make unit ARGS='-k netns'
	$(TESTED) $(PYTEST) $(call tests,tests/unit)

parity: .venv/test | for-test ## the drop-in port beside the C; ARGS too
	$(TESTED) $(REAL_KERNEL) $(PYTEST) $(call tests,tests/parity)

kernel-test: .venv/test | for-test ## the tests on a real kernel: make kernel-test ARGS='tests/kernel/test_epochs.py'
	$(TESTED) $(REAL_KERNEL) $(PYTEST) $(call tests,tests/kernel)

$(SHARED): kernel-test-%: .venv/test | for-test
	$(TESTED) $(REAL_KERNEL) $(PYTEST) tests/kernel --part=$* $(ARGS)

smp-test: .venv/test | for-smp ## those on Debian's own kernel with two processors, in QEMU; ARGS too
	$(TESTED) $(TWO_PROCESSORS) 9000 -- $(PYTEST) $(call tests,tests/kernel tests/unit/test_redirect.py)

smp-statuses: .venv/test | for-smp ## how that kernel ends, seen from here
	$(TESTED) $(PYTEST) tests/smp

smp-short: smp-statuses | for-smp ## some of those, in five minutes
	$(TESTED) $(TWO_PROCESSORS) 900 -- $(PYTEST) $(SHORT:%=tests/kernel/test_%.py) $(LACKING) tests/unit/test_redirect.py

skips: .venv/test ## what the runs so far have shown, and those that ran nowhere; with CI set, a kernel test there is a failure
	@$(PY) tools/summary $(if $(CI),--all) $(REPORTS:%=build/%.xml) $(wildcard build/smp-*.xml)

wheel: .venv/test ## the sdist and the wheel, in dist/
	PYTHON=$(PY) tools/wheel dist

deb: | for-deb ## the Debian packages, in dist/
	tools/deb dist

matrix: .venv/test ## that wheel on other systems and Pythons: make matrix RELEASES='bullseye 3.9'; and the Debian packages
	$(PY) tests/matrix/run $(RELEASES)
	$(if $(RELEASES),,$(PYTHON) tests/matrix/packages)

matrix-deb: ## the Debian packages in empty trees: make matrix-deb RELEASES=trixie
	$(PYTHON) tests/matrix/packages $(RELEASES)

matrix-pages: ## the steps of the pages, as written, in empty trees: make matrix-pages PARTS='install servers'
	$(PYTHON) -m tests.matrix.pages $(PARTS)

fresh: ## demo and test in an empty Debian: make fresh RELEASE=trixie
	tools/fresh $(RELEASE)

mutants: .venv/test | for-test ## which of some 120 ways to break the code no test notices: make mutants ARGS=detach
	$(PY) tools/mutants $(ARGS)

fuzz: .venv/test ## everything that parses, fed with 100,000 cases each
	@$(PY) -c "import atheris" 2>/dev/null || $(PY) -m pip install --quiet atheris 2>/dev/null || true
	$(PY) -m tests.fuzz.run $(ARGS)

bench: .venv/bench | for-bench ## what it costs beside its peers; ARGS=--short for a look
	$(PY) benchmarks/bench.py $(ARGS)

reload-bench: .venv/test | for-test ## connections lost in reloads of the real engines
	$(PY) benchmarks/reload/engines.py
	tools/testkernel/run --pin 1 --timeout 30000 -- $(PY) benchmarks/reload/run.py $(ARGS)

lab: .venv/bench | for-lab ## what stands in front of servers, on the real engines
	$(PY) benchmarks/reload/engines.py
	$(PY) benchmarks/lab/run $(ARGS)

docs: .venv/test ## the pages, in build/docs
	$(PY) -m sphinx -q -W -b html docs build/docs

pictures: .venv/test ## the pictures and recordings of the docs
	$(PY) docs/img/queue.py > docs/img/queue.svg
	$(REAL_KERNEL) $(PY) docs/recordings/record.py

race: .venv/test ## the example that chases a race, 100 times
	RACE_RUNS=100 $(REAL_KERNEL) $(PY) -m pytest -s examples/race

faults: .venv/test | for-test ## holders killed 200 times and the other faults, with figures; ARGS=--short for a look
	tools/testkernel/run --pin 1 --mem 3G --timeout 1800 -- $(PY) -m tests.faults.run $(ARGS)

smp-faults: .venv/test | for-smp ## the same on Debian's own kernel with two processors
	tools/testkernel/run --kernel debian --mem 3G --timeout 3600 -- $(PY) -m tests.faults.run $(ARGS)

clean: ## remove what was built
	rm -rf .venv build dist *.egg-info libnlplug/*.so libnlplug/_libnl.c libnlplug/guard/libnlplug-guard .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

for-test for-bench: | for-demo

for-smp for-lab: | for-test

for-demo for-test for-bench for-smp for-deb for-lab:
	@tools/setup $(@:for-%=%)

.venv/built: $(SOURCES) | for-demo
	test -x $(PY) || $(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/test: .venv/built
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	@touch $@

.venv/bench: .venv/test
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@
