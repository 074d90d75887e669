"""File descriptor limit: each connection needs one, and the usual soft limit is low."""

import resource


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard limit; return the limit in effect."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        return soft
    return hard
