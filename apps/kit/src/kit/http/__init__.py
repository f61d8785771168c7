"""Serving HTTP: connections and their bounds, headers, probes, errors and refusals."""
