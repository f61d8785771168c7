"""Commands that look at a change before it is merged."""
