-- KEYS: epoch, outbox, position. ARGV: the last epoch that the new owner knows, a random step from 1 on.
-- Answers the new epoch, the one before, the position, and how many events are kept.
--
-- The step is random so that no two owners have the same epoch, even where the store has lost a take-over and counts on from before it.
local before = redis.call('GET', KEYS[1]) or '0'
local epoch = string.format('%.0f', math.max(tonumber(before), tonumber(ARGV[1])) + tonumber(ARGV[2]))
redis.call('SET', KEYS[1], epoch)
return {epoch, before, redis.call('GET', KEYS[3]) or '0', tostring(redis.call('LLEN', KEYS[2]))}
