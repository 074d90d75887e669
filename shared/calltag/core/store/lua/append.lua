-- Append events to the streams of users whose keys are in one slot, each once; return the nodes with sessions of each
-- user, and the watchers of the user's calls.
-- Idempotent: the version that was added last of a call is not added again.
--
-- KEYS: right after a commit: epoch and position of its partition, watchers of all calls; then for each user: stream,
-- nodes, watchers, watching, then for each of the user's events: key of the last one added for the same call (or agent,
-- or refused operation).
-- ARGV: retention in ms, maximum number of events and of bytes per stream (both approximate), the same two for a user
-- who watches calls of others, '1' to append for such a user or '0' to defer, epoch and position after the commit (''
-- each otherwise), number of events, version and event each, then for each user: number of the user's events, the index
-- of each from 1 on.
-- Returns nothing if the commit did not take effect. Else after a commit the watchers of all calls; then for each user
-- {1, nodes, watchers, then for each event: position, previous position}; position 0 for an event superseded by a later
-- one of the same call: the writer of that one has notified the nodes, or they detect the gap. Deferred: {0, nodes,
-- watchers}.
--
-- A position is the entry's id as one number, milliseconds * 100 + sequence: it rises even if the stream is lost, and
-- sixteen times it stays below 2^53 until the year 2148, so that JavaScript represents both exactly.
local retention = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local now_text = string.format('%.0f', now)
local key, at = 0, 9 + 2 * ARGV[9]
local answers = {}
if ARGV[7] ~= '' then
  if redis.call('GET', KEYS[1]) ~= ARGV[7] or redis.call('GET', KEYS[2]) ~= ARGV[8] then return {} end
  answers[1], key = redis.call('ZRANGEBYSCORE', KEYS[3], now_text, '+inf'), 3
end

local function add(stream, added_to, version, event, newest, most, most_bytes)
  local added = redis.call('GET', added_to)
  local known, position, previous = string.match(added or '', '(%d+) (%d+) (%d+)')
  if known and tonumber(version) < tonumber(known) then return '0', '0' end
  if known and tonumber(version) == tonumber(known) then return position, previous end
  previous = string.format('%.0f', newest.ms * 100 + newest.sequence)
  if now > newest.ms then
    newest.ms, newest.sequence = now, 0
  elseif newest.sequence < 99 then
    newest.sequence = newest.sequence + 1
  else
    newest.ms, newest.sequence = newest.ms + 1, 0
  end
  local id = string.format('%.0f-%d', newest.ms, newest.sequence)
  local keep = math.min(most, math.max(1, math.floor(most_bytes / #event)))
  redis.call('XADD', stream, 'MAXLEN', '~', string.format('%d', keep), id, 'p', previous, 'e', event)
  position = string.format('%.0f', newest.ms * 100 + newest.sequence)
  redis.call('SET', added_to, version .. ' ' .. position .. ' ' .. previous, 'PX', retention)
  return position, previous
end

local function add_for_user(stream, numbers, keys, is_watching)
  local most, most_bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
  if is_watching then most, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5]) end
  local newest = {ms = 0, sequence = 0}
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if last then
    local left, right = string.match(last[1], '(%d+)-(%d+)')
    newest.ms, newest.sequence = tonumber(left), tonumber(right)
  end
  local places = {}
  for i, number in ipairs(numbers) do
    local position, previous =
      add(stream, keys[i], ARGV[8 + 2 * number], ARGV[9 + 2 * number], newest, most, most_bytes)
    places[#places + 1] = position
    places[#places + 1] = previous
  end
  redis.call('PEXPIRE', stream, retention)
  return places
end

while key < #KEYS do
  local stream, nodes, watchers, watching = KEYS[key + 1], KEYS[key + 2], KEYS[key + 3], KEYS[key + 4]
  local count = tonumber(ARGV[at + 1])
  local numbers, keys = {}, {}
  for i = 1, count do
    numbers[i], keys[i] = tonumber(ARGV[at + 1 + i]), KEYS[key + 4 + i]
  end
  local is_watching = redis.call('EXISTS', watching) == 1
  local is_deferred = is_watching and ARGV[6] == '0'
  local answer = {
    is_deferred and 0 or 1, redis.call('SMEMBERS', nodes), redis.call('ZRANGEBYSCORE', watchers, now_text, '+inf'),
  }
  if not is_deferred then
    for _, place in ipairs(add_for_user(stream, numbers, keys, is_watching)) do answer[#answer + 1] = place end
  end
  answers[#answers + 1] = answer
  key, at = key + 4 + count, at + 1 + count
end
return answers
