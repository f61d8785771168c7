"""Kubernetes, Argo CD and Istio on one machine, from package registries."""
