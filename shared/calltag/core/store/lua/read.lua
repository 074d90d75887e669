-- Read a call or an agent atomically. KEYS: state, user data (optional). ARGV: fields of the state.
-- Idempotent: reads.
-- Returns their values, then the user data; nothing where a key is not a hash.
local fields = redis.pcall('HMGET', KEYS[1], unpack(ARGV))
local data = KEYS[2] and redis.pcall('HGETALL', KEYS[2]) or {}
if fields.err or data.err then return {} end
return {fields, data}
