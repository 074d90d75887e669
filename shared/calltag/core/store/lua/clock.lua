-- The time of the server that has a key, as TIME answers it. KEYS: the key.
return redis.call('TIME')
