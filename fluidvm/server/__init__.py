"""
From options to a running server: what is checked, built, opened and stopped, and in which order.

Imported by tools.
"""
