"""The JSON API: its routes, their parameters, answers and documentation."""
