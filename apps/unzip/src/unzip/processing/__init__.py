"""Archives found, claimed, extracted and closed."""
