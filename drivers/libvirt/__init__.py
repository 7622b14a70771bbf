"""
What all drivers on libvirt share.

Imported by drivers.kvm, drivers.xen.
"""
