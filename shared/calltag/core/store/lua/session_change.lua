-- prelude
-- Subscribe a CometD session to channels, or unsubscribe it.
-- Idempotent: a repeat counts as one more change, which costs the home a look.
--
-- KEYS: session, stream, the user's sessions, end of the session. ARGV: JSON {digest, lifetime_ms, most, retention_ms, credential?,
-- request, known_ms, add, remove, replays}. `add` are pairs of channel and the position after which its messages are delivered ('' from
-- now on), `replays`: messages to this client carry their positions.
-- Returns {'unknown'}, {'full'}, {'expired', a position whose successors are not retained}, {'ended', former home}, or {'ok', home, number
-- of changes, channel, position after which it is subscribed, ...}. A repeated request raises the number of changes, nothing else.
--
-- s:<channel> is the position after which messages are delivered; b:<channel>, initially the same, exists until the client has all events
-- before the cursor: its home may have passed a position before it learns of the subscription.
local a, at = cjson.decode(ARGV[1]), now()
local home, credential, login, ends, last = unpack(redis.call('HMGET', KEYS[1], 'home', 'credential', 'login', 'ends', 'until'))
if not home then
  local request, _, former = end_of_session(KEYS[4])
  return request == a.request and {'ended', former} or {'unknown'}
end
if a.credential and a.credential ~= credential then
  end_session(KEYS[1], KEYS[3], KEYS[4], a, 'login_ended', home, login)
  return {'ended', home}
end
if ends and at >= tonumber(ends) then return {'unknown'} end
local known, count = {}, 0
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(name, 1, 2) == 's:' then known[string.sub(name, 3)], count = true, count + 1 end
end
local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
for _, wish in ipairs(a.add) do
  local since = tonumber(wish[2])
  if not known[wish[1]] then known[wish[1]], count = false, count + 1 end
  if since and since > 0 then
    local is_lost = since / 100 < at - a.retention_ms
    if oldest then is_lost = tonumber(oldest[2][2]) > since end
    if is_lost or since > at * 100 + 99 then return {'expired', wish[2]} end
  end
end
if count > a.most then return {'full'} end
local answer = {'ok', home}
answer[3] = integer(redis.call('HINCRBY', KEYS[1], 'changes', 1))
local tail = integer(tail_of(KEYS[2]))
for _, wish in ipairs(a.add) do
  local channel, since = wish[1], wish[2]
  if since ~= '' or not known[channel] then
    if since == '' then
      since = tail
    elseif tonumber(since) == 0 and oldest then
      -- All retained events; the client misses those that are trimmed before delivery.
      since = integer(position_of(oldest[1]) - 1)
    end
    redis.call('HSET', KEYS[1], 's:' .. channel, since, 'b:' .. channel, since)
  end
  answer[#answer + 1], answer[#answer + 2] = channel, redis.call('HGET', KEYS[1], 's:' .. channel)
end
for _, channel in ipairs(a.remove) do redis.call('HDEL', KEYS[1], 's:' .. channel, 'b:' .. channel) end
if a.replays then redis.call('HSET', KEYS[1], 'o:replays', 1) end
prolong_session(KEYS[1], KEYS[3], a.digest, at, a.lifetime_ms, last)
return answer
