"""What each operator does to the rows of a batch; importing a module registers its rules."""
