# The two commands of the README. Everything they make lies in STATE, or is gone when they end.
STATE ?= $(CURDIR)/.state
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

# What setuptools and twistd's plugin list leave in the source tree.
TIDY = rm -rf *.egg-info build twisted/plugins/dropin.cache examples/*/build examples/*/src/*.egg-info
# An interrupted command ends by itself; the shell waits for that, and tidies up.
WAIT = trap : INT TERM HUP

.PHONY: demo serve test clean

demo serve:
	lab/setup.sh demo "$(STATE)"
	@$(WAIT); "$(VENV)/bin/python" lab/demo.py $@ "$(STATE)"; status=$$?; $(TIDY); exit $$status

# TOXENV=tests chooses one environment, ARGS="-- tests.wire" some of its tests. TOXENV=xen, the last one, emulates a whole machine
# with Xen, for 10 minutes.
test:
	lab/setup.sh test "$(STATE)"
	lab/guest.sh "$(FLUIDVM_GUEST)"
	$(if $(or $(findstring xen,$(TOXENV)),$(if $(TOXENV),,all)),tests/xen/image.sh "$(FLUIDVM_XEN)")
	@$(WAIT); "$(VENV)/bin/tox" --workdir "$(STATE)/tox" $(if $(TOXENV),-e $(TOXENV)) $(ARGS); status=$$?; $(TIDY); exit $$status

clean:
	rm -rf "$(STATE)"
	$(TIDY)
