"""Rolling back while Git is away."""
