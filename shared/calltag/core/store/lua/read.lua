-- A call or an agent, as it is at one moment. KEYS: state, user data. ARGV: fields of the state. Answers their values, then the user data.
return {redis.call('HMGET', KEYS[1], unpack(ARGV)), redis.call('HGETALL', KEYS[2])}
