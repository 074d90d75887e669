-- Renew the lease of a worker, or remove it; return the live workers in the order of their places.
-- Idempotent: sets the lease.
--
-- KEYS: leases, places, reports. ARGV: worker, lease in ms (0: it leaves), its report of its partitions.
--
-- Time is the server's. A new worker gets the place after the last one. The last worker takes the place of one that has left
-- or expired, so that no other place changes. A long time without renewals means that Redis was unavailable: all workers
-- keep their places for one more lease, since the owners of partitions can detect commits that Redis has lost.
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
-- Workers renew every third of a lease or more often: no renewal for two thirds means that Redis was unavailable. A new worker
-- does not trigger this: all earlier ones may have expired long ago.
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
