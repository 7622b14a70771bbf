"""
The drivers that come with FluidVM, and what several of them share.

Imported by drivers.libvirt, drivers.openvz, drivers.simulator.
"""
