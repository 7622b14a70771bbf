"""
The terms of the protocol: faults, kinds of arguments, objects, their XML form, and the declaration of methods.

Imported by driver, store, inventory, images, auth, nodes, engine, access, api, api.storage, api.vms, api.accounts,
api.nodes, wire, server, tools.
"""
