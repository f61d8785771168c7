"""Logs and traces of a service."""
