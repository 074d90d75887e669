-- Record that a worker attempts an operation that may have crashed workers.
-- Idempotent: an attempt counts once, by its id.
--
-- KEYS: epoch, attempts. ARGV: epoch, operation, id of the attempt, TTL of attempts in ms.
-- Returns {'ok', number of attempts that did not complete, including this one} or {'fenced', the epoch}.
--
-- A field holds the ids of the attempts, separated by blanks. Idempotent per attempt.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end
local ids = redis.call('HGET', KEYS[2], ARGV[2])
local count, known = 0, false
for id in string.gmatch(ids or '', '%S+') do
  count = count + 1
  known = known or id == ARGV[3]
end
if not known then
  redis.call('HSET', KEYS[2], ARGV[2], (ids and ids .. ' ' or '') .. ARGV[3])
  count = count + 1
end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return {'ok', tostring(count)}
