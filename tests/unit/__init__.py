"""Tests that start no process and no guest: they take seconds, and C{make check} runs them."""
