"""What the proxy's environment sets, and which values are refused."""
