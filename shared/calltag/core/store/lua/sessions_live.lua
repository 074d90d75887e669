-- List a user's live sessions. KEYS: the user's sessions. Returns the digest of each, and the ms until it ends, ordered by end.
-- Idempotent: reads.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local answer = redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', now), '+inf', 'WITHSCORES')
for i = 2, #answer, 2 do answer[i] = string.format('%.0f', answer[i] - now) end
return answer
