# SPDX-License-Identifier: GPL-2.0-or-later
# make demo: the main job, on a real kernel.      make test: everything.      Both install what this host lacks.
# One test: make kernel-test ARGS='-k epoch -x'   (ARGS goes to pytest; so with unit and parity)

PYTHON ?= python3
PY := .venv/bin/python
REAL_KERNEL := tools/testkernel/with-plug
SOURCES := setup.py pyproject.toml build_ffi.py $(wildcard vendor_headers/* libnlplug/*/*.[ch])
export PYTHON

# The tests run two at a time: each test kernel is one process, and half of the kernel tests go to each of two.
HALVES := kernel-test-1of2 kernel-test-2of2

.PHONY: demo test lint types unit parity kernel-test $(HALVES) smp-test wheel matrix fuzz docs pictures race faults bench lab reload-bench clean for-demo for-test for-bench for-smp

demo: .venv/built | for-demo
	@$(REAL_KERNEL) $(PY) examples/demo/demo.py

test: lint types
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target $(HALVES) unit parity
	@echo "lint, types  passed"
	@$(PY) tools/summary build/unit.xml build/parity.xml $(HALVES:%=build/%.xml)

lint: .venv/test
	$(PY) -m ruff check . benchmarks/lab/run tests/matrix/run tools/testkernel/run tools/summary

types: .venv/test
	$(PY) -m mypy

unit: .venv/test | for-test
	$(PY) -m pytest tests/unit --junitxml=build/$@.xml $(ARGS)

parity: .venv/test | for-test
	$(REAL_KERNEL) $(PY) -m pytest tests/parity --junitxml=build/$@.xml $(ARGS)

kernel-test: .venv/test | for-test
	$(REAL_KERNEL) $(PY) -m pytest tests/kernel --junitxml=build/$@.xml $(ARGS)

$(HALVES): kernel-test-%: .venv/test | for-test
	$(REAL_KERNEL) $(PY) -m pytest tests/kernel --part=$* --junitxml=build/$@.xml $(ARGS)

smp-test: .venv/test | for-smp
	tools/testkernel/run --kernel debian --timeout 7200 -- $(PY) -m pytest $(or $(ARGS),tests/kernel) --junitxml=build/$@.xml

wheel: .venv/test
	PYTHON=$(PY) tools/wheel dist

matrix: .venv/test
	$(PY) tests/matrix/run $(RELEASES)

fuzz: .venv/test
	@$(PY) -c "import atheris" 2>/dev/null || $(PY) -m pip install --quiet atheris 2>/dev/null || true
	$(PY) -m tests.fuzz.run $(ARGS)

bench: .venv/bench | for-bench
	$(PY) benchmarks/bench.py $(ARGS)

reload-bench: .venv/test | for-test
	tools/testkernel/run --pin 1 --timeout 3000 -- $(PY) benchmarks/reload/run.py $(ARGS)

lab: .venv/test | for-test
	$(PY) benchmarks/lab/run $(ARGS)

docs: .venv/test
	$(PY) -m sphinx -q -W -b html docs build/docs

pictures: .venv/test
	$(PY) docs/img/queue.py > docs/img/queue.svg
	$(REAL_KERNEL) $(PY) docs/recordings/record.py

race: .venv/test
	RACE_RUNS=100 $(REAL_KERNEL) $(PY) -m pytest -s examples/race

faults: .venv/test
	tools/testkernel/run --pin 1 --mem 3G --timeout 1800 -- $(PY) -m tests.faults.run $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info libnlplug/*.so libnlplug/_libnl.c libnlplug/guard/libnlplug-guard .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

for-test for-bench: | for-demo

for-smp: | for-test

for-demo for-test for-bench for-smp:
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
