-- KEYS: epoch, outbox. Answers the new epoch, then the events that were kept.
local epoch = redis.call('INCR', KEYS[1])
local answer = redis.call('LRANGE', KEYS[2], 0, -1)
table.insert(answer, 1, tostring(epoch))
return answer
