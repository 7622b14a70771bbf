"""
The driver for OpenVZ, by its commands, on this machine or over SSH.

Loaded by its entry point alone.
"""
