"""Checks of rendered objects of any kind: schemas, names, labels."""
