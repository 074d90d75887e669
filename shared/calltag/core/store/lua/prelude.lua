-- Shared functions, prepended to scripts that begin with "-- prelude".
--
-- A position is the id of a stream entry as one number, milliseconds * 100 + sequence. Numbers are formatted by `integer`, as Lua's own
-- conversion keeps only 14 digits.
local function now()
  local clock = redis.call('TIME')
  return clock[1] * 1000 + math.floor(clock[2] / 1000)
end

local function integer(number)
  return string.format('%.0f', number)
end

local function position_of(id)
  local ms, sequence = string.match(id, '(%d+)-(%d+)')
  return ms * 100 + sequence
end

local function tail_of(stream)
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return newest and position_of(newest[1]) or 0
end

-- Return the entries after a position, at most `most` and within `most_bytes`, but at least one; and 1 if there are more, else 0.
local function page_of(stream, after, most, most_bytes)
  local entries, bytes, from = {}, 0, string.format('(%.0f-%.0f', math.floor(after / 100), after % 100)
  while true do
    local found = redis.call('XRANGE', stream, from, '+', 'COUNT', 16)
    for _, entry in ipairs(found) do
      for _, field in ipairs(entry[2]) do bytes = bytes + #field end
      if #entries >= most or (#entries > 0 and bytes > most_bytes) then return entries, 1 end
      entries[#entries + 1] = entry
      from = '(' .. entry[1]
    end
    if #found < 16 then return entries, 0 end
  end
end

-- Set the TTL of a CometD session.
local function keep_session(session, sessions, digest, at, lifetime)
  redis.call('PEXPIRE', session, integer(lifetime))
  redis.call('ZADD', sessions, integer(at + lifetime), digest)
  if redis.call('PTTL', sessions) < lifetime then redis.call('PEXPIRE', sessions, integer(lifetime)) end
end

-- Extend the TTL after a message other than a connect: a minimum that later saves of the home do not shorten.
local function prolong_session(session, sessions, digest, at, lifetime, last)
  lifetime = last and math.min(lifetime, last - at) or lifetime
  redis.call('HSET', session, 'active', integer(at), 'kept', integer(at + lifetime))
  if redis.call('PTTL', session) < lifetime then keep_session(session, sessions, digest, at, lifetime) end
end

-- Write the state that a home saves: `fields` are names and values, `times` names with milliseconds from now. `backfills` (by channel)
-- and `filled` apply to the subscriptions after `changes` changes, and are ignored if they have changed since.
local function write_session(session, a, at, changes)
  redis.call('HSET', session, unpack(a.fields))
  for name, ms in pairs(a.times) do redis.call('HSET', session, name, integer(at + ms)) end
  if changes ~= a.changes then return end
  for channel, progress in pairs(a.backfills) do redis.call('HSET', session, 'b:' .. channel, progress) end
  for _, channel in ipairs(a.filled) do redis.call('HDEL', session, 'b:' .. channel) end
end

-- End a CometD session, and write its tombstone: the request that ended it, reason, home and login.
local function end_session(session, sessions, ended, a, why, home, login)
  redis.call('DEL', session)
  redis.call('ZREM', sessions, a.digest)
  redis.call('SET', ended, table.concat({a.request, why, home, login or ''}, ' '), 'PX', a.known_ms)
end

local function end_of_session(ended)
  return string.match(redis.call('GET', ended) or '', '^(%S+) (%S+) (%S+) (%S*)')
end
