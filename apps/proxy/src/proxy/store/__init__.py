"""Where the proxy keeps what outlives a request: Redis and S3."""
