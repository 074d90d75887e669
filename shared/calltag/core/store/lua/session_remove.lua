-- Ends a session. KEYS: session, the user's sessions. ARGV: session id. Answers the node that held it, or false.
local holder = redis.call('HGET', KEYS[1], 'holder')
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return holder
