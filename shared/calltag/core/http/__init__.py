"""HTTP: the server with its bounds, addresses behind proxies, origins of pages, headers of answers."""
