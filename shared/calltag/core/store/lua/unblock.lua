-- Delete the block of a call or an agent if it is for this operation.
-- Idempotent: deletes; a repeat finds nothing.
--
-- KEYS: blocks. ARGV: name of the call or agent, operation. Returns 1, or 0 if there is no such block.
-- A block that cannot be decoded is for the operation ''.
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw then return 0 end
local is_json, block = pcall(cjson.decode, raw)
local is_whole = is_json and type(block) == 'table' and type(block.operation_id) == 'string' and block.reason and block.at_ms
local operation = is_whole and block.operation_id or ''
if operation ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
