"""A request and its way to a server behind the proxy: headers, deadline, client, protection."""
