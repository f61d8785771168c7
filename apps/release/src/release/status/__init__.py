"""What `release status` shows: what is wanted and what runs."""
