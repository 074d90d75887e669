-- prelude
-- End a CometD session; with `cycle`, only if it has not moved since, and its TTL is at most `within_ms`.
-- Idempotent: the request that ended a session is recognised by its id.
--
-- KEYS: session, the user's sessions, end of the session. ARGV: JSON {digest, request, known_ms, why, cycle?, within_ms?}.
-- Returns its home, or false if there was no such session, or it continues. A repeated request gets the same reply.
local a = cjson.decode(ARGV[1])
local home, login, cycle = unpack(redis.call('HMGET', KEYS[1], 'home', 'login', 'cycle'))
if not home then
  local request, _, former = end_of_session(KEYS[3])
  return request == a.request and former
end
if a.cycle and (cycle ~= a.cycle or redis.call('PTTL', KEYS[1]) > a.within_ms) then return false end
end_session(KEYS[1], KEYS[2], KEYS[3], a, a.why, home, login)
return home
