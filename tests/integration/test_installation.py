"""A process that is set up for another installation than the one that the store belongs to."""

import os
import subprocess
import sys
from pathlib import Path

import redis

from parts.ports import free_port

CALLTAG = [sys.executable, "-c", "from calltag.cli.main import main; main()"]


def worker(folder: Path, redis_url: str, partitions: int) -> subprocess.CompletedProcess[str]:
    """Run a worker; RabbitMQ is not there, and what is wrong shows before it is asked for."""
    environment = {
        "CALLTAG_AMQP__URL": f"amqp://127.0.0.1:{free_port()}/",
        "CALLTAG_REDIS__URL": redis_url,
        "CALLTAG_PARTITIONS": str(partitions),
        "CALLTAG_INTERNAL__PORT": "0",
    }
    return subprocess.run(
        [*CALLTAG, "worker"], cwd=folder, env={**os.environ, **environment}, text=True, capture_output=True,
        timeout=90, check=False,
    )  # fmt: skip


def test_a_worker_with_another_number_of_partitions_does_not_start(tmp_path: Path, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.hset("calltag:installation", mapping={"partitions": 32, "schema": 1})
        done = worker(tmp_path, redis_url, 16)
        assert done.returncode == 1
        assert (
            "calltag: this installation has 32 partitions, fixed when it was made; CALLTAG_PARTITIONS says 16\n"
            in done.stderr
        )
        assert client.keys() == [b"calltag:installation"]
