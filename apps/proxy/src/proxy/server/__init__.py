"""What the proxy adds to uvicorn: a bound of open requests, complete answers, WebSocket limits."""
