"""The models that are served: read, checked, warmed up, swapped and released."""
