"""The release command: writes digests into values, promotes, rolls back, verifies."""
