-- List live calls unchanged for a time. KEYS: live calls by their last change. ARGV: that time in ms, maximum number, number to skip.
-- Idempotent: reads.
local clock = redis.call('TIME')
local before = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000) - ARGV[1])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', ARGV[3], ARGV[2])
