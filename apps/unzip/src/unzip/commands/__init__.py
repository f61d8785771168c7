"""The commands of `unzip`, one file each."""
