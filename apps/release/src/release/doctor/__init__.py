"""`release doctor`: looks at what an installation rests on, and names each fault with its fix."""
