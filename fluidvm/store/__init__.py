"""
The database: synchronous functions that take a connection first and return values. `database` is their one async border.

Imported by inventory, images, auth, nodes, engine, access, api, api.storage, api.vms, api.accounts, api.nodes, server.
"""
