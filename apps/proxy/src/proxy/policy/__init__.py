"""Who may ask, how often, and which arm of an experiment answers."""
