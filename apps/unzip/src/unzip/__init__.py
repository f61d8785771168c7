"""The archive extractor: a zip in S3 becomes its files in S3."""
