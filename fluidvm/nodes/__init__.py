"""
Compute nodes: a watched connection to each, and the comparison of what they report with the inventory.

Imported by engine, api, api.vms, server.
"""
