"""A command imports what it needs, and nothing else: people wait for it."""

import subprocess
import sys

NOT_NEEDED = ("aio_pika", "fastapi", "redis", "rich.table", "structlog", "pydantic_settings")
SHOW = f"""
import sys
from calltag.cli.main import app
print([name for name in {NOT_NEEDED!r} if name in sys.modules])
"""


def test_the_command_itself_imports_no_service() -> None:
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
