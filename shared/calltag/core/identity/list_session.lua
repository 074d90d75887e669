-- Adds a session to those of its user, and answers which of them are too many: those not used for longest. They stay listed until they
-- are removed, so that a repeated request gets the same answer.
--
-- KEYS: the user's sessions by their last use. ARGV: session, now in Unix ms, idle time in ms, how many the user may have.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', ARGV[2] - ARGV[3]))
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local surplus = redis.call('ZCARD', KEYS[1]) - ARGV[4]
if surplus <= 0 then return {} end
return redis.call('ZRANGE', KEYS[1], 0, surplus - 1)
