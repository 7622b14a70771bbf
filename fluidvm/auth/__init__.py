"""
Who may do what: sessions, logins, passwords, certificates, permissions, and the audit log of what was done.

Imported by engine, access, api, api.storage, api.vms, api.accounts, api.nodes, wire, server.
"""
