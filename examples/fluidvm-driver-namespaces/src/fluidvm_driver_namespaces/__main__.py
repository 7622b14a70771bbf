"""
Start the domains that are to start with their host: C{python -m fluidvm_driver_namespaces DIRECTORY TEMPLATE}.

For the host's boot, from a unit or a crontab's C{@reboot}; a driver without a daemon has nobody else to do it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fluidvm.driver import DriverError
from fluidvm_driver_namespaces.domains import Domains


def main() -> int:
    """Start what isn't running; says what doesn't start, and goes on."""
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
