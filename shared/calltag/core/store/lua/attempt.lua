-- Notes that an operation is about to be tried which a worker may have died of.
--
-- KEYS: epoch, attempts. ARGV: epoch, operation, for how many ms attempts are kept.
-- Answers {'ok', how often it was tried without an end, with this time} or {'fenced', the epoch}.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end
local count = redis.call('HINCRBY', KEYS[2], ARGV[2], 1)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {'ok', tostring(count)}
