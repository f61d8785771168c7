"""What a thing is made of and where each part of it comes from."""
