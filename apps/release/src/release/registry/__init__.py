"""Registries of images: whether a digest is there, and who signed it."""
