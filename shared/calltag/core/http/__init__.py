"""HTTP as all services speak it: addresses behind proxies, origins of pages, headers of answers."""
