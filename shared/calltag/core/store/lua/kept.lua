-- Read the outbox after the first events, within a limit of bytes, but at least one event.
-- Idempotent: reads.
--
-- KEYS: epoch, outbox. ARGV: epoch, number of events to skip, maximum bytes. Returns {'ok', events} or {'fenced', the epoch}.
--
-- The epoch is checked because after a change of the outbox by another owner, the skipped events may be unpublished.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end
local skip, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local events, bytes = {}, 0
while true do
  local event = redis.call('LINDEX', KEYS[2], skip + #events)
  if not event then return {'ok', events} end
  bytes = bytes + #event
  if #events > 0 and bytes > most then return {'ok', events} end
  events[#events + 1] = event
end
