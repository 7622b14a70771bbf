"""
Compute nodes: one watched connection for each, and what they report, compared with the inventory.

Imported by engine, api, api.vms, server.
"""
