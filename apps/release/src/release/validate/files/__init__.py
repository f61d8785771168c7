"""Checks of files: their rows and folders, and what argocd/ says."""
