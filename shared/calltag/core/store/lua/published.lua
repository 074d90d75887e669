-- Adds what a gateway published to what all of them did. The same request adds once.
--
-- KEYS: what all published, the gateway's last request. ARGV: the request, for how long in ms it is known, then for each partition: its
-- number, messages, operations. Answers messages and operations of all gateways for each partition.
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
