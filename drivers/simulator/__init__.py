"""
A driver without a hypervisor: its hosts are files and memory.

Loaded by its entry point. Imported by server.
"""
