-- KEYS: epoch, outbox. ARGV: epoch, how many events were sent. Answers {'ok'} or {'fenced', the epoch}.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end
redis.call('LTRIM', KEYS[2], ARGV[2], -1)
return {'ok'}
