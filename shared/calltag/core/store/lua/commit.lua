-- Commit one batch of a partition atomically.
-- Idempotent: the repeat of a commit with operations is a conflict, and changes nothing; one without is sent once.
--
-- KEYS: epoch, outbox, position, live calls by their last change, blocks, then for each change: state, user data, done,
-- order.
-- ARGV: epoch, the last position that the owner knows, the position up to which events were published ('' if unknown), number of
--       operations to remember, their minimum TTL in ms, number of events,
--       the events, then for each change: expected version ('-' for no state), new version ('' if unchanged), TTL in ms, member of
--       the live calls ('' if not a call), '1' if it is live, '0' if not, '' if unchanged, state ('' if unchanged), order of the
--       user-data keys ('' if unchanged), number of keys to delete (-1: all), the keys, number of keys to set,
--       key and value list each, number of operations done, id and outcome each; finally the blocks: name of the call or
--       agent and the block each, '' to delete it.
-- Returns {'ok', the new position, number of blocks}, {'fenced', the epoch}, {'lost', the position} (confirmed commits are missing),
-- {'conflict', the key} or {'refused', the key of the wrong type}.
local at = 0
local function take()
  at = at + 1
  return ARGV[at]
end
local function take_list(count)
  local list = {}
  for i = 1, count do list[i] = take() end
  return list
end

local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= take() then return {'fenced', epoch} end
local position = redis.call('GET', KEYS[3]) or '0'
if tonumber(position) < tonumber(take()) then return {'lost', position} end
local is_published = position == take()
local remember, memory = tonumber(take()), tonumber(take())
local events = take_list(tonumber(take()))

-- Types are checked first: a command that fails half-way would leave the writes before it in place.
local function is(key, kind)
  local found = redis.call('TYPE', key).ok
  return found == kind or found == 'none'
end
if not is(KEYS[5], 'hash') then return {'refused', KEYS[5]} end

local changes = {}
for key = 6, #KEYS, 4 do
  local change = {
    state = KEYS[key], data = KEYS[key + 1], done = KEYS[key + 2], order = KEYS[key + 3],
    expected = take(), version = take(), lifetime = take(), member = take(), live = take(), doc = take(), keys = take(),
  }
  change.drop = tonumber(take())
  change.dropped = take_list(math.max(change.drop, 0))
  change.set = take_list(2 * tonumber(take()))
  change.finished = take_list(2 * tonumber(take()))
  for name, kind in pairs({state = 'hash', data = 'hash', done = 'hash', order = 'list'}) do
    if not is(change[name], kind) then return {'refused', change[name]} end
  end
  local version = redis.call('HGET', change.state, 'version') or '-'
  if version ~= change.expected then return {'conflict', change.state} end
  for i = 1, #change.finished, 2 do
    if redis.call('HEXISTS', change.done, change.finished[i]) == 1 then return {'conflict', change.done} end
  end
  changes[#changes + 1] = change
end

-- All checks have passed; writes begin here.
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
for _, change in ipairs(changes) do
  if change.version ~= '' then
    redis.call('HSET', change.state, 'version', change.version)
    if change.doc ~= '' then redis.call('HSET', change.state, 'doc', change.doc) end
    if change.keys ~= '' then redis.call('HSET', change.state, 'keys', change.keys) end
    if change.drop < 0 then redis.call('DEL', change.data) end
    for _, field in ipairs(change.dropped) do redis.call('HDEL', change.data, field) end
    for i = 1, #change.set, 2 do redis.call('HSET', change.data, change.set[i], change.set[i + 1]) end
    redis.call('PEXPIRE', change.state, change.lifetime)
    redis.call('PEXPIRE', change.data, change.lifetime)
  end
  if change.live == '1' then
    redis.call('ZADD', KEYS[4], now, change.member)
    -- The set outlives its members: each call is released or expires before.
    redis.call('PEXPIRE', KEYS[4], change.lifetime)
  elseif change.live == '0' then
    redis.call('ZREM', KEYS[4], change.member)
  end
  for i = 1, #change.finished, 2 do
    redis.call('HSET', change.done, change.finished[i], change.finished[i + 1])
    redis.call('RPUSH', change.order, change.finished[i])
  end
  local surplus = redis.call('LLEN', change.order) - remember
  for _ = 1, surplus do redis.call('HDEL', change.done, redis.call('LPOP', change.order)) end
  local remembered = string.format('%d', math.max(tonumber(change.lifetime), memory))
  redis.call('PEXPIRE', change.done, remembered)
  redis.call('PEXPIRE', change.order, remembered)
end
for _, event in ipairs(events) do redis.call('RPUSH', KEYS[2], event) end
-- The events that were in the outbox before are published: its owner trims it in the exchange of the next commit.
if is_published then
  if #events > 0 then redis.call('LTRIM', KEYS[2], -#events, -1) else redis.call('DEL', KEYS[2]) end
end
while at < #ARGV do
  local name, mark = take(), take()
  if mark == '' then redis.call('HDEL', KEYS[5], name) else redis.call('HSET', KEYS[5], name, mark) end
end
return {'ok', tostring(redis.call('INCR', KEYS[3])), tostring(redis.call('HLEN', KEYS[5]))}
