# The two commands of the README. Everything they make lies in STATE, or is gone when they end.
STATE ?= $(CURDIR)/.state
VENV = $(STATE)/venv

.PHONY: demo serve test clean

demo:
	lab/setup.sh demo "$(STATE)"
	"$(VENV)/bin/python" lab/demo.py demo "$(STATE)"

serve:
	lab/setup.sh demo "$(STATE)"
	"$(VENV)/bin/python" lab/demo.py serve "$(STATE)"

test:
	lab/setup.sh test "$(STATE)"
	lab/guest.sh "$(STATE)/guest"
	FLUIDVM_GUEST="$(STATE)/guest" "$(VENV)/bin/tox" --workdir "$(STATE)/tox" $(if $(TOXENV),-e $(TOXENV)) $(ARGS)

clean:
	rm -rf "$(STATE)" *.egg-info
