-- Events that are kept for sending, after the first ones: no more than a number of bytes, unless the first of them alone has more.
--
-- KEYS: epoch, outbox. ARGV: epoch, how many to pass over, most bytes. Answers {'ok', events} or {'fenced', the epoch}.
--
-- Where another owner has changed what is kept, those passed over may be ones that nobody has sent.
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
