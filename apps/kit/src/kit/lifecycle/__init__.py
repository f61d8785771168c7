"""Start, readiness and end of a service in a pod."""
