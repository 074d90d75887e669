-- Drops the kept events: those of all commits up to a position were sent.
--
-- KEYS: epoch, outbox, position. ARGV: epoch, position. Answers {'ok'} or {'fenced', the epoch}.
--
-- A request that arrives a second time, or late, must not drop the events of a later commit: then nothing is dropped,
-- and the owner's next request drops all.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end
if (redis.call('GET', KEYS[3]) or '0') == ARGV[2] then redis.call('DEL', KEYS[2]) end
return {'ok'}
