"""Checks of the services' settings, in environment variables and in values."""
