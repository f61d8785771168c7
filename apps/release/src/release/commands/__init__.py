"""The commands of `release`, a file for each group."""
