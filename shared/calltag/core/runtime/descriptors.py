"""File descriptors: each connection takes one, and the usual limit is low."""

import resource


def raise_descriptor_limit() -> int:
    """Let this process open as many files and connections as it may; returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        return soft
    return hard
