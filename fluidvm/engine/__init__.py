"""Execution contexts: committed tasks, run in order, durably."""
