-- Register or renew a watcher.
-- Idempotent: a repeat renews the watch.
--
-- KEYS: watchers, start of each watch. ARGV: watcher, lease in ms.
-- Returns the start of the uninterrupted watch, in ms of the server's clock.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now))) do
  redis.call('ZREM', KEYS[1], gone)
  redis.call('HDEL', KEYS[2], gone)
end
redis.call('HSETNX', KEYS[2], ARGV[1], string.format('%.0f', now))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
-- Read before the TTL is set: on a busy server a very short one may expire within the script.
local since = redis.call('HGET', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return since
