"""The process that runs jobs: it claims, runs and ends them, and makes their callbacks."""
