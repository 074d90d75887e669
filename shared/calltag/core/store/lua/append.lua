-- Adds events to one user's stream, each once, and says which nodes hold sessions of the user.
--
-- KEYS: stream, nodes, then for each event: what was added last for the same call (or agent, or refused operation).
-- ARGV: retention in ms, how many events and how many bytes to keep (about), then for each event: version, event.
-- Answers {nodes, then for each event: position, previous position}; position 0 for an event that a later one of the same
-- call has overtaken: whoever added that one has told the nodes, or they find the gap.
--
-- A position is the entry's id as one number, milliseconds * 100 + sequence: it rises even if the stream is lost, and
-- sixteen times it stays below 2^53 until the year 2148, so that JavaScript keeps both exactly.
local retention, most, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ms, sequence = 0, 0
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if newest then
  local left, right = string.match(newest[1], '(%d+)-(%d+)')
  ms, sequence = tonumber(left), tonumber(right)
end

local answer = {redis.call('SMEMBERS', KEYS[2])}
for i = 3, #KEYS do
  local version, event = ARGV[2 * i - 2], ARGV[2 * i - 1]
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
