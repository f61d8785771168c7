"""Predictions that are answered later: their queue in Redis, their state, their callback URLs."""
