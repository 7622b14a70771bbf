"""
What a call is allowed to use, and the connections that outlast it: consoles and transfers.

Imported by api, api.storage, api.vms, api.accounts, api.nodes, wire, server.
"""
