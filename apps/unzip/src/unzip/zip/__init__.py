"""Reading zip archives strictly: end records, central directory, members, names."""
