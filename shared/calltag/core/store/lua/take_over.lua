-- Raise the epoch of a partition.
-- Idempotent: a repeat raises the epoch once more, and its reply counts.
--
-- KEYS: epoch, outbox, position. ARGV: the last epoch that the new owner knows, a random step from 1 on, the epoch and the position up
-- to which it has published all events itself ('' each if it has not).
-- Returns the new epoch, the previous one, the position, and the number of events in the outbox.
--
-- The step is random so that no two owners have the same epoch, even if a failover has lost a take-over and reset the epoch.
local before = redis.call('GET', KEYS[1]) or '0'
local position = redis.call('GET', KEYS[3]) or '0'
local epoch = string.format('%.0f', math.max(tonumber(before), tonumber(ARGV[1])) + tonumber(ARGV[2]))
-- The first write has to be one that Redis refuses when its memory is full: later ones of a script are not refused.
redis.call('SET', KEYS[1], epoch)
-- Nobody else has owned it since: the outbox holds what the new owner has published.
if before == ARGV[3] and position == ARGV[4] then redis.call('DEL', KEYS[2]) end
return {epoch, before, position, tostring(redis.call('LLEN', KEYS[2]))}
