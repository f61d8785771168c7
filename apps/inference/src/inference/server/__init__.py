"""What every HTTP protocol needs of the server: its state, bodies, headers and documents."""
