"""`release new`: the files and rows that a service or an environment consists of."""
