-- prelude
-- Extend the TTL of a CometD session after a message that changes nothing else.
-- Idempotent: the request that ended a session is recognised by its id.
--
-- KEYS: session, the user's sessions, end of the session. ARGV: JSON {digest, lifetime_ms, credential?, request, known_ms}.
-- Returns {'ok'}, {'unknown'}, or {'ended', former home}. A repeated request gets the same reply.
local a, at = cjson.decode(ARGV[1]), now()
local home, credential, login, ends, last = unpack(redis.call('HMGET', KEYS[1], 'home', 'credential', 'login', 'ends', 'until'))
if not home then
  local request, _, former = end_of_session(KEYS[3])
  return request == a.request and {'ended', former} or {'unknown'}
end
if a.credential and a.credential ~= credential then
  end_session(KEYS[1], KEYS[2], KEYS[3], a, 'login_ended', home, login)
  return {'ended', home}
end
if ends and at >= tonumber(ends) then return {'unknown'} end
prolong_session(KEYS[1], KEYS[2], a.digest, at, a.lifetime_ms, last)
return {'ok'}
