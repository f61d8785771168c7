"""Breaks a running environment in the ways that hurt its users, and tells who notices."""
