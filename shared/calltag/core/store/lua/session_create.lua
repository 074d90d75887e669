-- Begins a CometD session at the end of its user's stream.
--
-- KEYS: session, stream, the user's sessions. ARGV: session id, node, lifetime in ms, most sessions of the user, how long the list of
-- sessions is kept in ms, after how long the session ends in any case in ms ('' for never), then names and values of the session.
-- Answers {'ok', position} or {'full'}. A session that is there already was created by the same request, whose answer was lost.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now))
local created = redis.call('HGET', KEYS[1], 'confirmed')
if created then return {'ok', created} end
if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[4]) then return {'full'} end
local position = '0'
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if newest then
  local ms, sequence = string.match(newest[1], '(%d+)-(%d+)')
  position = string.format('%.0f', ms * 100 + sequence)
end
redis.call('HSET', KEYS[1], 'holder', ARGV[2], 'cycle', 0, 'confirmed', position, 'sent', position, 'generation', 0,
  'active', string.format('%.0f', now), unpack(ARGV, 7))
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'ends', string.format('%.0f', now + ARGV[6])) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[3], string.format('%.0f', now + ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[5])
return {'ok', position}
