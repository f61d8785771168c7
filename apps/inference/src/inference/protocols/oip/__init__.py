"""The protocol's gRPC messages, generated from the ``.proto`` beside this file."""
