"""
Command-line tools that generate the reference, the picture of the rooms, and certificates for development.

Nothing of FluidVM imports it.
"""
