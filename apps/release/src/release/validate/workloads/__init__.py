"""Checks of what runs: quantities, quota, schedules, Secrets."""
