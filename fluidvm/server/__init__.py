"""
The running server: its options, the checks before it starts, and the order in which it starts and stops its parts.

Imported by tools.
"""
