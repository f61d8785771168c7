"""What was deployed and judged before, as Git keeps it."""
