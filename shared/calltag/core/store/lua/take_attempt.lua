-- Counts an attempt (ARGV[3], a number) under KEYS[1] within a window of ARGV[1] ms, unless the limit ARGV[2] is reached.
-- Idempotent: an attempt counts once, by its number.
-- Returns 0, or at the limit the milliseconds until the window ends. Idempotent per attempt.
if redis.call('SISMEMBER', KEYS[1], ARGV[3]) == 1 then return 0 end
if redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return math.max(1, redis.call('PTTL', KEYS[1]))
end
redis.call('SADD', KEYS[1], ARGV[3])
if redis.call('PTTL', KEYS[1]) < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return 0
