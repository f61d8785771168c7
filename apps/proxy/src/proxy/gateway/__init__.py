"""The HTTP interface: the protocol of inference, the JSON API, its pages, and WebSockets."""
