"""How much memory there is, and how requests share it."""
