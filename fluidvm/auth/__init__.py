"""
Who is allowed to do what: sessions, logins, passwords, certificates, permissions, and the audit log.

Imported by engine, access, api, api.storage, api.vms, api.accounts, api.nodes, wire, server.
"""
