-- Add a loss to those of a partition. A loss that is reported again, perhaps with more commits, counts once.
--
-- KEYS: losses. ARGV: id of the loss, commits lost, those beyond recovery, time in Unix ms.
local last, commits, gone = unpack(redis.call('HMGET', KEYS[1], 'last', 'last_commits', 'last_gone'))
if last ~= ARGV[1] then commits, gone = 0, 0 end
redis.call('HINCRBY', KEYS[1], 'commits', ARGV[2] - commits)
redis.call('HINCRBY', KEYS[1], 'gone', ARGV[3] - gone)
redis.call('HSET', KEYS[1], 'at_ms', ARGV[4], 'last', ARGV[1], 'last_commits', ARGV[2], 'last_gone', ARGV[3])
return 0
