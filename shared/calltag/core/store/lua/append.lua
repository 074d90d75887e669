-- Adds events to one user's stream, each once, and says which nodes hold sessions of the user and who watches the user's calls.
--
-- KEYS: stream, nodes, watchers, watching, then for each event: what was added last for the same call (or agent, or refused operation).
-- ARGV: retention in ms, how many events and how many bytes to keep (about), the same two for a user who watches calls of others,
-- whether to add events for such a user ('1') or to put it off ('0'), then for each event: version, event.
-- Answers {1, nodes, watchers, then for each event: position, previous position}; position 0 for an event that a later one of the same
-- call has overtaken: whoever added that one has told the nodes, or they find the gap. Put off: {0, nodes, watchers}.
--
-- A position is the entry's id as one number, milliseconds * 100 + sequence: it rises even if the stream is lost, and
-- sixteen times it stays below 2^53 until the year 2148, so that JavaScript keeps both exactly.
local retention, most, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local watchers = redis.call('ZRANGEBYSCORE', KEYS[3], string.format('%.0f', now), '+inf')
local answer = {1, redis.call('SMEMBERS', KEYS[2]), watchers}
if redis.call('EXISTS', KEYS[4]) == 1 then
  if ARGV[6] == '0' then
    answer[1] = 0
    return answer
  end
  most, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
end

local ms, sequence = 0, 0
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if newest then
  local left, right = string.match(newest[1], '(%d+)-(%d+)')
  ms, sequence = tonumber(left), tonumber(right)
end
for i = 5, #KEYS do
  local version, event = ARGV[2 * i - 3], ARGV[2 * i - 2]
  local added = redis.call('GET', KEYS[i])
  local known, position, previous = string.match(added or '', '(%d+) (%d+) (%d+)')
  if not known or tonumber(version) > tonumber(known) then
    previous = string.format('%.0f', ms * 100 + sequence)
    if now > ms then
      ms, sequence = now, 0
    elseif sequence < 99 then
      sequence = sequence + 1
    else
      ms, sequence = ms + 1, 0
    end
    local id = string.format('%.0f-%d', ms, sequence)
    local keep = math.min(most, math.max(1, math.floor(most_bytes / #event)))
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', string.format('%d', keep), id, 'p', previous, 'e', event)
    position = string.format('%.0f', ms * 100 + sequence)
    redis.call('SET', KEYS[i], version .. ' ' .. position .. ' ' .. previous, 'PX', retention)
  elseif tonumber(version) < tonumber(known) then
    position, previous = '0', '0'
  end
  answer[#answer + 1] = position
  answer[#answer + 1] = previous
end
redis.call('PEXPIRE', KEYS[1], retention)
return answer
