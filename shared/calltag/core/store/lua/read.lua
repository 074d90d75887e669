-- A call or an agent, as it is at one moment. KEYS: state, user data. ARGV: fields of the state.
-- Answers their values, then the user data; nothing where a key holds something else than a hash.
local fields, data = redis.pcall('HMGET', KEYS[1], unpack(ARGV)), redis.pcall('HGETALL', KEYS[2])
if fields.err or data.err then return {} end
return {fields, data}
