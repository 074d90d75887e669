-- What a node has sent to the client in answer to a /meta/connect; without effect if the session has moved on since, or has gone back
-- in its stream.
--
-- KEYS: session, the user's sessions. ARGV: session id, cycle, generation, position sent, lifetime in ms.
-- Answers 1, or 0 if the session has moved on or ended.
local session = redis.call('HMGET', KEYS[1], 'cycle', 'generation')
if session[1] ~= ARGV[2] or session[2] ~= ARGV[3] then return 0 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('HSET', KEYS[1], 'sent', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[5]), ARGV[1])
return 1
