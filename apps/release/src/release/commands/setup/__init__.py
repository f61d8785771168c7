"""Commands that set up a repository, a service, an environment, a version."""
