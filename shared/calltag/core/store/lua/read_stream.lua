-- Read the next entries of a stream, within a limit of entries and of event bytes, but at least one.
-- Idempotent: reads.
--
-- KEYS: stream. ARGV: start, maximum entries, maximum bytes. Returns the entries, and '1' if there are more, else '0'.
local from, most, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local page = 16
local entries, bytes = {}, 0
while true do
  local found = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', page)
  for _, entry in ipairs(found) do
    for _, field in ipairs(entry[2]) do bytes = bytes + #field end
    if #entries >= most or (#entries > 0 and bytes > most_bytes) then return {entries, 1} end
    entries[#entries + 1] = entry
    from = '(' .. entry[1]
  end
  if #found < page then return {entries, 0} end
end
