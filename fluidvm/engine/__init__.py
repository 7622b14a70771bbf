"""
Execution contexts: committed tasks, run in order and durably; claims, slots, placement, and the rehearsal of tasks.

Imported by access, api, api.storage, api.vms, api.accounts, api.nodes, wire, server.
"""
