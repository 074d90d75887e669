-- Ends a session. KEYS: session, the user's sessions, what is left of the session. ARGV: session id, for how long in ms it is to be
-- known that its client has ended it (0: it was not the client). Answers the node that held it, or false.
local holder, login = unpack(redis.call('HMGET', KEYS[1], 'holder', 'login'))
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if holder and tonumber(ARGV[2]) > 0 then redis.call('SET', KEYS[3], login or '', 'PX', ARGV[2]) end
return holder
