"""Commands that look at what runs and at what was deployed."""
