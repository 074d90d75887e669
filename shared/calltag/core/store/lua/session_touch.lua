-- The client of a session did something that changes nothing else. KEYS: session. Answers 1, or 0 if there is no such session.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local clock = redis.call('TIME')
redis.call('HSET', KEYS[1], 'active', string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000)))
return 1
