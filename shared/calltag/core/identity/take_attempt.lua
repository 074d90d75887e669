-- Counts one more attempt under KEYS[1] within a window of ARGV[1] ms, unless there were ARGV[2] already.
-- Returns the milliseconds until the window ends where there were, else 0.
if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[2]) then
  return math.max(1, redis.call('PTTL', KEYS[1]))
end
if redis.call('INCR', KEYS[1]) == 1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return 0
