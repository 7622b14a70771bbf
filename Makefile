# The commands of the README. All files that they create are in STATE, or are removed when they end.
export STATE ?= $(CURDIR)/.state
VENV = $(STATE)/venv

export PYTHONDONTWRITEBYTECODE = 1
export XDG_CACHE_HOME = $(STATE)/cache
export PIP_CACHE_DIR = $(STATE)/cache/pip
export VIRTUALENV_OVERRIDE_APP_DATA = $(STATE)/cache/virtualenv
export RUFF_CACHE_DIR = $(STATE)/cache/ruff
export MYPY_CACHE_DIR = $(STATE)/cache/mypy
export HYPOTHESIS_STORAGE_DIRECTORY = $(STATE)/cache/hypothesis
export FLUIDVM_GUEST = $(STATE)/guest
export FLUIDVM_XEN = $(STATE)/xen
# The number of workers that share the tests of an environment.
# One more for make check, beside which little runs: its tests wait for threads at times.
export FLUIDVM_JOBS ?= $(shell expr $$(nproc) + $(if $(filter check,$(MAKECMDGOALS)),1,0))

# Removes what setuptools and twistd's plugin cache leave in the source tree.
TIDY = rm -rf *.egg-info build twisted/plugins/dropin.cache examples/*/build examples/*/src/*.egg-info
# An interrupted command ends on its own; the shell waits for it and then cleans up.
WAIT = trap : INT TERM HUP

# tox, with a cache of what one environment compiles, for the others. Several environments run in parallel. The output of failed
# ones is shown, and at the end how long each took. The longest ones are started first.
TOX = "$(VENV)/bin/tox" --workdir "$(STATE)/tox"
PARTS = $(WAIT); $(TOX) run --notest -q -e $(firstword $(subst $(comma), ,$(1))) && \
	$(TOX) run-parallel --parallel-no-spinner --parallel 3 -e $(1) $(ARGS); status=$$?; $(TIDY); exit $$status
comma = ,

CHECK = unit,types,lint
TEST = xen,real,postgresql,unit,types,example,wheel,lint
LONG = xen-more,hunt,trixie,bookworm,apidocs

.PHONY: demo serve check test long full hunt soak bench clean

demo serve:
	lab/setup.sh demo "$(STATE)"
	@$(WAIT); "$(VENV)/bin/python" lab/demo.py $@ "$(STATE)"; status=$$?; $(TIDY); exit $$status

# Lint, types, and the tests that start no process; run it after each change. TOXENV=apidocs selects another environment that
# needs no guest.
check:
	lab/setup.sh check "$(STATE)"
	@$(call PARTS,$(or $(TOXENV),$(CHECK)))

# Everything that a change can break. TOXENV=real selects one environment, ARGS="-- tests.real.test_kvm" some of its tests.
test:
	lab/setup.sh test "$(STATE)"
	lab/guest.sh "$(FLUIDVM_GUEST)"
	$(if $(or $(findstring xen,$(TOXENV)),$(if $(TOXENV),,all)),tests/xen/image.sh "$(FLUIDVM_XEN)")
	@$(call PARTS,$(or $(TOXENV),$(TEST)))

# The tests that take longer.
long:
	lab/setup.sh full "$(STATE)"
	lab/guest.sh "$(FLUIDVM_GUEST)"
	tests/xen/image.sh "$(FLUIDVM_XEN)"
	@$(call PARTS,$(LONG))

full:
	$(MAKE) test
	$(MAKE) long

# The crash harness with 200 kills; also a part of full.
hunt:
	lab/setup.sh test "$(STATE)"
	lab/guest.sh "$(FLUIDVM_GUEST)"
	@$(call PARTS,hunt)

# Crash hunts for an hour; for five minutes with ARGS="-- --minutes 5".
soak:
	lab/setup.sh test "$(STATE)"
	lab/guest.sh "$(FLUIDVM_GUEST)"
	@$(WAIT); $(TOX) run -e soak $(ARGS); status=$$?; $(TIDY); exit $$status

# Every benchmark: 10 minutes on an idle machine.
bench:
	lab/setup.sh check "$(STATE)"
	@$(WAIT); $(TOX) run -e bench; status=$$?; $(TIDY); exit $$status

clean:
	rm -rf "$(STATE)"
	$(TIDY)
