-- Ends a session.
--
-- KEYS: session, the user's sessions, end of the session. ARGV: session, id of the request, why it ends ('left': by its client), for how
-- long in ms the end is known. Answers the node that held it, or false; the same again to the same request.
local holder, login = unpack(redis.call('HMGET', KEYS[1], 'holder', 'login'))
if not holder then
  local request, former = string.match(redis.call('GET', KEYS[3]) or '', '^(%S+) %S+ (%S+)')
  return request == ARGV[2] and former
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], table.concat({ARGV[2], ARGV[3], holder, login or ''}, ' '), 'PX', ARGV[4])
return holder
