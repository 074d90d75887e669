-- Write after all commits of the owner: a replica that has this write has all of them.
-- Idempotent: writes the same again.
--
-- KEYS: epoch, position. ARGV: epoch, position of the last commit. Returns {'ok'}, {'fenced', the epoch} or {'lost', the position}.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end
local position = redis.call('GET', KEYS[2]) or '0'
if tonumber(position) < tonumber(ARGV[2]) then return {'lost', position} end
redis.call('SET', KEYS[2], position)
return {'ok'}
