-- Add a loss to those of a partition. A loss that is reported again, perhaps with more commits, counts once.
-- Idempotent: the loss that was added last is recognised by its id.
--
-- KEYS: losses. ARGV: id of the loss, commits lost, those beyond recovery, time in Unix ms.
local last, commits, lost_for_good = unpack(redis.call('HMGET', KEYS[1], 'last', 'last_commits', 'last_lost_for_good'))
if last ~= ARGV[1] then commits, lost_for_good = 0, 0 end
redis.call('HINCRBY', KEYS[1], 'commits', ARGV[2] - commits)
redis.call('HINCRBY', KEYS[1], 'lost_for_good', ARGV[3] - lost_for_good)
redis.call('HSET', KEYS[1], 'at_ms', ARGV[4], 'last', ARGV[1], 'last_commits', ARGV[2], 'last_lost_for_good', ARGV[3])
return 0
