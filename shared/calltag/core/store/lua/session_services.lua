-- The state of the services that a session's client is told; without effect if another node holds the session.
--
-- KEYS: session. ARGV: node, the state ('1' for active, '0' for inactive). Answers 1, or 0 if it had no effect.
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'services', ARGV[2])
return 1
