"""
The database: synchronous functions that take a connection as first argument. `database` is their asynchronous interface.

Imported by inventory, images, auth, nodes, engine, access, api, api.storage, api.vms, api.accounts, api.nodes, server.
"""
