-- Trim the outbox after the events of all commits up to a position were published.
-- Idempotent: trims up to a position.
--
-- KEYS: epoch, outbox, position. ARGV: epoch, position. Returns {'ok'} or {'fenced', the epoch}.
--
-- A repeated or late request must not delete the events of a later commit: it then deletes nothing, and the owner's
-- next request deletes all.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end
if (redis.call('GET', KEYS[3]) or '0') == ARGV[2] then redis.call('DEL', KEYS[2]) end
return {'ok'}
