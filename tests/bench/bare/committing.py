"""Bare part: the commit script of the worker, one operation on a call in each, in pipelines.

`python -m bench.bare.committing URL COUNT` prints a sample.
"""

import json
import sys
import time

import redis.asyncio
import uvloop

IN_A_PIPELINE = 100
SCRIPT = """
if redis.call('SET', KEYS[2], 1, 'NX', 'EX', 3600) then
  local known = redis.call('HGET', KEYS[1], ARGV[1])
  local values = known and cjson.decode(known) or {}
  values[#values + 1] = ARGV[2]
  redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(values))
  return redis.call('HINCRBY', KEYS[1], 'version', 1)
end
"""


async def _measure(url: str, count: int) -> dict[str, float]:
    client = redis.asyncio.Redis.from_url(url)
    async with client:
        digest = await client.script_load(SCRIPT)
        began, cpu = time.monotonic(), time.process_time()
        for first in range(0, count, IN_A_PIPELINE):
            pipeline = client.pipeline(transaction=False)
            for number in range(first, first + IN_A_PIPELINE):
                call = number % 1000
                pipeline.evalsha(digest, 2, f"bench:{{{call}}}", f"bench:{{{call}}}:{number}", f"k{number}", "12345")
            await pipeline.execute()
        work = -(-count // IN_A_PIPELINE) * IN_A_PIPELINE
        return {"work": work, "seconds": time.monotonic() - began, "cpu_s": time.process_time() - cpu}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_measure(sys.argv[1], int(sys.argv[2])))))
