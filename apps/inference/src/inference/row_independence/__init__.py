"""Whether a model's rows stay apart, so that requests may be run together."""
