"""Pictures of strangers, decoded within bounds of memory and time."""
