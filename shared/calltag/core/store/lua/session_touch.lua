-- The client of a session did something that changes nothing else.
--
-- KEYS: session, the user's sessions, end of the session. ARGV: session, lifetime in ms, the credential that the session must have
-- begun with ('' if that does not matter), id of the request, for how long in ms the end of the session is known.
-- Answers {'ok'}, {'unknown'}, or {'ended', the node that held the session}; the same again to the same request.
local holder, credential, login = unpack(redis.call('HMGET', KEYS[1], 'holder', 'credential', 'login'))
if not holder then
  local request, former = string.match(redis.call('GET', KEYS[3]) or '', '^(%S+) %S+ (%S+)')
  if request == ARGV[4] then return {'ended', former} end
  return {'unknown'}
end
if ARGV[3] ~= '' and ARGV[3] ~= credential then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('SET', KEYS[3], table.concat({ARGV[4], 'login_ended', holder, login or ''}, ' '), 'PX', ARGV[5])
  return {'ended', holder}
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ends, last = unpack(redis.call('HMGET', KEYS[1], 'ends', 'until'))
if ends and now >= tonumber(ends) then return {'unknown'} end
redis.call('HSET', KEYS[1], 'active', string.format('%.0f', now))
local lifetime = tonumber(ARGV[2])
if last then lifetime = math.min(lifetime, last - now) end
if redis.call('PTTL', KEYS[1]) < lifetime then
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', lifetime))
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + lifetime), ARGV[1])
end
return {'ok'}
