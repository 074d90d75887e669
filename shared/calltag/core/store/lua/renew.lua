-- Keeps a worker among the living, or lets it go, and answers who lives, in the order of their places.
--
-- KEYS: leases, places, reports. ARGV: member, lease in ms (0: it leaves), what it tells of its partitions.
--
-- Time is the server's. Who comes gets the place after the last one. The place of one that is gone goes to the last one:
-- so nobody else's place changes. Where nobody was heard for long, it was the store that was away: all keep their
-- places for as long as one lease lasts, since those who had a partition know what the store may have lost of it.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local member, lease = ARGV[1], tonumber(ARGV[2])

local function vacate(gone)
  local place = tonumber(redis.call('ZSCORE', KEYS[2], gone))
  redis.call('ZREM', KEYS[2], gone)
  redis.call('ZREM', KEYS[1], gone)
  redis.call('HDEL', KEYS[3], gone)
  local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
  if last[1] and tonumber(last[2]) > place then redis.call('ZADD', KEYS[2], place, last[1]) end
end

local latest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
-- Workers renew every third of a lease at least: where nobody did for two thirds, the store was away. Whoever comes anew does
-- not count for that: those before it may all be gone since long.
if lease > 0 and latest[1] and redis.call('ZSCORE', KEYS[2], member) and now - (tonumber(latest[2]) - lease) > lease * 2 / 3 then
  for _, each in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    redis.call('ZADD', KEYS[1], string.format('%d', now + lease), each)
  end
end
if lease > 0 then
  redis.call('ZADD', KEYS[1], string.format('%d', now + lease), member)
else
  redis.call('ZREM', KEYS[1], member)
end
for _, each in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local ends = redis.call('ZSCORE', KEYS[1], each)
  if not ends or (lease > 0 and tonumber(ends) < now) then vacate(each) end
end
if lease > 0 then
  redis.call('ZADD', KEYS[2], 'NX', redis.call('ZCARD', KEYS[2]), member)
  redis.call('HSET', KEYS[3], member, ARGV[3])
end
return redis.call('ZRANGE', KEYS[2], 0, -1)
