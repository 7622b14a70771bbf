"""
The network protocols: XML-RPC documents, HTTP, TLS and WebSocket, and the dispatch of calls.

Imported by server.
"""
