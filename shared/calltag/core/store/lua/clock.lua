-- Return the reply to TIME of the server of a key. KEYS: the key.
-- Idempotent: reads.
return redis.call('TIME')
