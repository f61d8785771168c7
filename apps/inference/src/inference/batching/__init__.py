"""Requests that wait together run together: the queue of a model, and what it learns of runs."""
