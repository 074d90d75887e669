-- What a node has sent to the client in answer to a /meta/connect; without effect if the session has moved on since.
--
-- KEYS: session, the user's sessions. ARGV: session id, cycle, position sent, lifetime in ms.
-- Answers 1, or 0 if the session has moved on or ended.
if redis.call('HGET', KEYS[1], 'cycle') ~= ARGV[2] then return 0 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('HSET', KEYS[1], 'sent', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[4]), ARGV[1])
return 1
