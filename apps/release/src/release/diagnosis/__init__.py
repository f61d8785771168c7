"""From what the cluster shows to what it means: how a release is, and why."""
