-- Takes the mark of a call or an agent away, if it is the one of this operation.
--
-- KEYS: marks. ARGV: name of the call or agent, operation. Answers 1, or 0 where there is no such mark.
local mark = redis.call('HGET', KEYS[1], ARGV[1])
if not mark or cjson.decode(mark).operation_id ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
