"""
Image files on the server's disk: uploaded, fetched, inspected, and how much room they take.

Imported by engine, access, api.storage, wire, server.
"""
