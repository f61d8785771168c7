"""How fast releases are: `python -m bench.release`."""
