-- prelude
-- Begin a CometD session at the end of its user's stream. A first connect to another node counts as roaming.
-- Idempotent: sets the fields of a session that has an id of its own.
--
-- KEYS: session, stream, the user's sessions. ARGV: JSON {digest, node, lifetime_ms, most, ends_in_ms?, fields}.
-- Returns {'ok', position} or {'full'}. An existing session was created by the same request, whose reply was lost.
local a, at = cjson.decode(ARGV[1]), now()
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', integer(at))
local created = redis.call('HGET', KEYS[1], 'sent')
if created then return {'ok', created} end
if redis.call('ZCARD', KEYS[3]) >= a.most then return {'full'} end
local position = integer(tail_of(KEYS[2]))
redis.call('HSET', KEYS[1], 'home', a.node, 'cycle', 1, 'confirmed', position, 'sent', position, 'batch', 0, 'changes', 0, 'saved', 0,
  'exact', 1, 'active', integer(at), 'moved', integer(at), unpack(a.fields))
if a.ends_in_ms then redis.call('HSET', KEYS[1], 'ends', integer(at + a.ends_in_ms)) end
keep_session(KEYS[1], KEYS[3], a.digest, at, a.lifetime_ms)
return {'ok', position}
