-- Adds a session to those of its user; returns the least recently used ones beyond the limit. They stay listed until the caller removes
-- them, so that a retry returns the same.
-- Idempotent: sets; a repeat lists the same surplus.
--
-- KEYS: the user's sessions by last use. ARGV: session, now in Unix ms, idle time in ms, maximum number of sessions.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', ARGV[2] - ARGV[3]))
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local surplus = redis.call('ZCARD', KEYS[1]) - ARGV[4]
if surplus <= 0 then return {} end
return redis.call('ZRANGE', KEYS[1], 0, surplus - 1)
