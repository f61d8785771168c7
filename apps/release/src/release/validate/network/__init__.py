"""Checks of connections: addresses, callers, policies, hosts outside."""
