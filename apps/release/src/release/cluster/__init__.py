"""The Kubernetes API, and what `release` itself keeps in a cluster."""
