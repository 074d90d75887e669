-- Subscribes a session to channels, or unsubscribes it.
--
-- KEYS: session, stream, the user's sessions, end of the session. ARGV: session, lifetime in ms, most subscriptions, retention in ms, the
-- credential that the session must have begun with ('' if that does not matter), id of the request, for how long in ms the end of the
-- session is known, 'add' or 'remove', then for each channel: name and, when adding, the position after which its messages are wanted
-- ('' for what comes from now on; -1 for the same, with numbers).
-- Answers {'unknown'}, {'full'}, {'expired', a position of which the successors are not kept any more}, {'ended', the node that
-- held the session}, or {'ok', the node that holds the session}. To carry out the same request again changes nothing.
--
-- A subscription has two fields: s:<channel> is the position after which its messages are wanted; f:<channel> is there until the
-- holder has taken notice of it. A third, u:<channel>, is there for a connect or two where the client may lack what was sent after
-- that position.
local holder, credential, login = unpack(redis.call('HMGET', KEYS[1], 'holder', 'credential', 'login'))
if not holder then
  local request, former = string.match(redis.call('GET', KEYS[4]) or '', '^(%S+) %S+ (%S+)')
  if request == ARGV[6] then return {'ended', former} end
  return {'unknown'}
end
if ARGV[5] ~= '' and ARGV[5] ~= credential then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('SET', KEYS[4], table.concat({ARGV[6], 'login_ended', holder, login or ''}, ' '), 'PX', ARGV[7])
  return {'ended', holder}
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ends = redis.call('HGET', KEYS[1], 'ends')
if ends and now >= tonumber(ends) then return {'unknown'} end
redis.call('HSET', KEYS[1], 'active', string.format('%.0f', now))
if ARGV[8] == 'remove' then
  for i = 9, #ARGV do redis.call('HDEL', KEYS[1], 's:' .. ARGV[i], 'f:' .. ARGV[i], 'u:' .. ARGV[i]) end
else
  local count = 0
  for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(name, 1, 2) == 's:' then count = count + 1 end
  end
  local names = {}
  for i = 9, #ARGV, 2 do
    if redis.call('HEXISTS', KEYS[1], 's:' .. ARGV[i]) == 0 and not names[ARGV[i]] then
      names[ARGV[i]] = true
      count = count + 1
    end
  end
  if count > tonumber(ARGV[3]) then return {'full'} end
  local tail = '0'
  local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  if newest then
    local ms, sequence = string.match(newest[1], '(%d+)-(%d+)')
    tail = string.format('%.0f', ms * 100 + sequence)
  end
  local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  for i = 10, #ARGV, 2 do
    local since = tonumber(ARGV[i])
    if since and since > 0 then
      local expired = since > now * 100 + 99
      if oldest then expired = expired or tonumber(oldest[2][2]) > since
      else expired = expired or since / 100 < now - ARGV[4] end
      if expired then return {'expired', ARGV[i]} end
    end
  end
  for i = 9, #ARGV, 2 do
    -- A subscription that is there already begins anew only where the client asks for what was.
    if ARGV[i + 1] ~= '' or redis.call('HEXISTS', KEYS[1], 's:' .. ARGV[i]) == 0 then
      local since = ARGV[i + 1]
      if since ~= '' then redis.call('HSET', KEYS[1], 'o:numbered', '1') end
      if since == '' or since == '-1' then since = tail end
      redis.call('HSET', KEYS[1], 's:' .. ARGV[i], since, 'f:' .. ARGV[i], since)
    end
  end
end
local lifetime = tonumber(ARGV[2])
local last = redis.call('HGET', KEYS[1], 'until')
if last then lifetime = math.min(lifetime, last - now) end
if redis.call('PTTL', KEYS[1]) < lifetime then
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', lifetime))
  redis.call('ZADD', KEYS[3], string.format('%.0f', now + lifetime), ARGV[1])
end
return {'ok', holder}
