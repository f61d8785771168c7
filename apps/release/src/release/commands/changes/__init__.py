"""Commands that commit."""
