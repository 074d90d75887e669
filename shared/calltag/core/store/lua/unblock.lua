-- Delete the block of a call or an agent if it is for this operation.
--
-- KEYS: blocks. ARGV: name of the call or agent, operation. Returns 1, or 0 if there is no such block.
local mark = redis.call('HGET', KEYS[1], ARGV[1])
if not mark or cjson.decode(mark).operation_id ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
