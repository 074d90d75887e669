-- List the registered workers. KEYS: leases, places, reports.
-- Idempotent: reads.
-- Returns the workers in the order of their places, each with: ms until its lease ends, its report of its partitions.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local answer = {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local ends = tonumber(redis.call('ZSCORE', KEYS[1], member) or '0')
  answer[#answer + 1] = {member, ends - now, redis.call('HGET', KEYS[3], member) or '[]'}
end
return answer
