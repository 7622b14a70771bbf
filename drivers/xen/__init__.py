"""
The driver for Xen, by libvirt.

Loaded by its entry point alone.
"""
