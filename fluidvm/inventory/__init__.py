"""
The current state of all objects in memory, the change log, and the ledger of used and reserved amounts.

Imported by images, auth, nodes, engine, access, api, api.storage, api.vms, api.accounts, api.nodes, server.
"""
