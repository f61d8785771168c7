"""What each hop costs, and what many routes cost: ``python -m bench.routing``."""
