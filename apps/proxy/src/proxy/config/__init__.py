"""The parts of the settings: backends, compositions, policies."""
