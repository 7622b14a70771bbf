"""The store: synchronous functions that take a connection first and return values; `database` is their one async border."""
