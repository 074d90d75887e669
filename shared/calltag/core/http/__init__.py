"""HTTP server with limits and backpressure, client addresses behind proxies, origins of pages, response heads."""
