"""What happens to a request whatever its protocol: admission, preparation, the run, counting."""
