"""Whether an environment's services answer: asked as their users and their callers ask."""
