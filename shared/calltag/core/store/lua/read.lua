-- A call or an agent, as it is at one moment. KEYS: state, user data (none: without it). ARGV: fields of the state.
-- Answers their values, then the user data; nothing where a key holds something else than a hash.
local fields = redis.pcall('HMGET', KEYS[1], unpack(ARGV))
local data = KEYS[2] and redis.pcall('HGETALL', KEYS[2]) or {}
if fields.err or data.err then return {} end
return {fields, data}
