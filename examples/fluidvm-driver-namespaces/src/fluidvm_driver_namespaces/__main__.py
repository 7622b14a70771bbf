"""
Start the domains with autostart: C{python -m fluidvm_driver_namespaces DIRECTORY TEMPLATE}.

To be run when the host boots, from a unit or a crontab's C{@reboot}, as this driver has no daemon that could do it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fluidvm.driver import DriverError
from fluidvm_driver_namespaces.domains import Domains


def main() -> int:
    """Start domains that aren't running. Failures are printed, and the others are started."""
    directory, template = (Path(argument).absolute() for argument in sys.argv[1:])
    status = 0
    try:
        domains = Domains(directory, template)
        wanted = [domain.uuid for domain in domains.all() if domain.autostart]
    except DriverError as error:
        print(error, file=sys.stderr)
        return 1
    for uuid in wanted:
        try:
            domains.start(uuid)
        except DriverError as error:
            print(error, file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
