"""The gateway service between Istio and the models, and its job worker."""
