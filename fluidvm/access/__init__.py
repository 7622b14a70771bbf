"""
What a call has in its hands, and the connections that outlast it: consoles and transfers of bytes.

Imported by api, api.storage, api.vms, api.accounts, api.nodes, wire, server.
"""
