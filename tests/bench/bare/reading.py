"""Bare part: Redis reads in pipelines: what a gateway has to read for an operation, a session and a call.

`python -m bench.bare.reading URL COUNT` prints a sample; one piece of work is both reads.
"""

import json
import sys
import time

import redis.asyncio
import uvloop

IN_A_PIPELINE = 32


async def _measure(url: str, count: int) -> dict[str, float]:
    client = redis.asyncio.Redis.from_url(url)
    async with client:
        await client.set("bench:session", b"x" * 160)
        await client.hset("bench:call", mapping={f"field-{number}": "x" * 40 for number in range(6)})
        began, cpu = time.monotonic(), time.process_time()
        for _ in range(count // IN_A_PIPELINE):
            pipeline = client.pipeline(transaction=False)
            for _ in range(IN_A_PIPELINE):
                pipeline.get("bench:session")
                pipeline.hgetall("bench:call")
            await pipeline.execute()
        work = count // IN_A_PIPELINE * IN_A_PIPELINE
        return {"work": work, "seconds": time.monotonic() - began, "cpu_s": time.process_time() - cpu}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_measure(sys.argv[1], int(sys.argv[2])))))
