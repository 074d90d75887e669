-- A node has heard nothing of a session that it holds: ends the session if the store was about to end it as well.
--
-- KEYS: session, the user's sessions. ARGV: session id, the cycle in which the node holds it, how long the session may still have to
-- live in ms. Answers 1 if there is no such session (any more), 0 if it lives on, here or elsewhere.
local cycle = redis.call('HGET', KEYS[1], 'cycle')
if cycle and (cycle ~= ARGV[2] or redis.call('PTTL', KEYS[1]) > tonumber(ARGV[3])) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
