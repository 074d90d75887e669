-- KEYS: epoch, outbox, position. ARGV: the last epoch that the new owner knows, a random step from 1 on.
-- Answers the new epoch, the one before, the position, then the events that were kept.
--
-- The step is random so that no two owners have the same epoch, even where the store has lost a take-over and counts on from before it.
local before = redis.call('GET', KEYS[1]) or '0'
local epoch = string.format('%.0f', math.max(tonumber(before), tonumber(ARGV[1])) + tonumber(ARGV[2]))
redis.call('SET', KEYS[1], epoch)
local answer = redis.call('LRANGE', KEYS[2], 0, -1)
table.insert(answer, 1, redis.call('GET', KEYS[3]) or '0')
table.insert(answer, 1, before)
table.insert(answer, 1, epoch)
return answer
