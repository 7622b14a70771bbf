"""
The current state of all objects in memory, the change log, and the ledger of what is used and reserved.

Imported by images, auth, nodes, engine, access, api, api.storage, api.vms, api.accounts, api.nodes, server.
"""
