"""Which archive is whose, and what became of it: records and leases in S3."""
