"""The verdict on a deployment."""
