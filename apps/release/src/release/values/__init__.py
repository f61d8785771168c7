"""What stands in the manifest tree: which files make a release, and what they say."""
