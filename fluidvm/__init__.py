"""FluidVM: a management server for fleets of hypervisor hosts, spoken to over XML-RPC."""

__version__ = "0.1.0"
