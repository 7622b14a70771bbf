"""
Image files on the server's disk: uploads, fetching from URLs, inspection, and disk space.

Imported by engine, access, api.storage, wire, server.
"""
