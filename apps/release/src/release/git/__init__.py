"""The manifest repository: its commits, how they are made and pushed, and GitHub's API."""
