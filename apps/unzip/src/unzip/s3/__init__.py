"""S3 as the service needs it: pinned reads, conditional writes, multipart uploads."""
