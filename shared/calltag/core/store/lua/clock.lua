-- Return the reply to TIME of the server of a key. KEYS: the key.
return redis.call('TIME')
