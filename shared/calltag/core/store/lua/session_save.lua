-- What a node has sent to the client in answer to a /meta/connect, or in the same cycle to another message; without effect if the
-- session has moved on since, or has gone back in its stream.
--
-- KEYS: session, the user's sessions. ARGV: session id, cycle, generation, position sent, lifetime in ms, whether the session lives at
-- least so long ('1') or just so long ('0'), how long ago an event was sent in ms ('' if none was), and for how long other messages may
-- keep the session alive without a connect in ms ('' for ever).
-- Answers 1, or 0 if the session has moved on or ended.
local session = redis.call('HMGET', KEYS[1], 'cycle', 'generation', 'sent')
if session[1] ~= ARGV[2] or session[2] ~= ARGV[3] then return 0 end
if tonumber(ARGV[4]) > tonumber(session[3]) then redis.call('HSET', KEYS[1], 'sent', ARGV[4]) end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'told', string.format('%.0f', now - ARGV[7])) end
if ARGV[6] == '1' and redis.call('PTTL', KEYS[1]) >= tonumber(ARGV[5]) then return 1 end
if ARGV[6] == '0' and ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + ARGV[8])) end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[5]), ARGV[1])
return 1
