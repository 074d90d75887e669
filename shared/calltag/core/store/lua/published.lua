-- Add the counts of a gateway to the totals of all gateways.
-- Idempotent: the last request of a gateway is recognised by its id.
--
-- KEYS: totals, the gateway's last request. ARGV: id of the request, its TTL in ms, then for each partition: its
-- number, messages, operations. Returns messages and operations of all gateways for each partition.
local is_repeated = redis.call('GET', KEYS[2]) == ARGV[1]
local totals = {}
local function add(name, count)
  if is_repeated then count = 0 end
  totals[#totals + 1] = redis.call('HINCRBY', KEYS[1], name, count)
end
for at = 3, #ARGV, 3 do
  add(ARGV[at] .. ':m', ARGV[at + 1])
  add(ARGV[at] .. ':o', ARGV[at + 2])
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return totals
