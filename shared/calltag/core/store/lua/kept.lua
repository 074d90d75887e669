-- The oldest events that are kept for sending: no more than a number of bytes, unless the first alone has more.
--
-- KEYS: outbox. ARGV: most bytes. Answers the events.
local events, bytes = {}, 0
while true do
  local event = redis.call('LINDEX', KEYS[1], #events)
  if not event then return events end
  bytes = bytes + #event
  if #events > 0 and bytes > tonumber(ARGV[1]) then return events end
  events[#events + 1] = event
end
