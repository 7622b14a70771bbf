"""
The methods for users, resource plans, sessions, owners and the audit log.

Gathered by api.
"""

from fluidvm.api.accounts import audit, ownership, plans, second_factor, sessions, users

__all__ = ["audit", "ownership", "plans", "second_factor", "sessions", "users"]
