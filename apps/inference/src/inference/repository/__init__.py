"""Where models are stored, in a folder or in S3, and what `model.json` says about one."""
