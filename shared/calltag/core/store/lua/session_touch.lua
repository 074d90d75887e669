-- The client of a session did something that changes nothing else.
--
-- KEYS: session, the user's sessions. ARGV: session id, lifetime in ms. Answers 1, or 0 if there is no such session.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ends, last = unpack(redis.call('HMGET', KEYS[1], 'ends', 'until'))
if ends and now >= tonumber(ends) then return 0 end
redis.call('HSET', KEYS[1], 'active', string.format('%.0f', now))
local lifetime = tonumber(ARGV[2])
if last then lifetime = math.min(lifetime, last - now) end
if redis.call('PTTL', KEYS[1]) < lifetime then
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', lifetime))
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + lifetime), ARGV[1])
end
return 1
