"""The HTTP server: connections of HTTP/1.1 and WebSocket, with a bound on everything that a client can make it hold."""
