"""What the proxy says of its requests: metrics and the access log."""
