"""Changes of the manifest repository: each is one commit, planned on its newest state."""
