-- Delete an attempt at an operation, because its worker did not crash.
-- Idempotent: deletes.
--
-- KEYS: attempts. ARGV: operation, id of the attempt.
local left = {}
for id in string.gmatch(redis.call('HGET', KEYS[1], ARGV[1]) or '', '%S+') do
  if id ~= ARGV[2] then left[#left + 1] = id end
end
if #left > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], table.concat(left, ' '))
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
