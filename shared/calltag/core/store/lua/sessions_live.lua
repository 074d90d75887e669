-- A user's sessions that have not ended. KEYS: the user's sessions. Answers for each, the one that ends first at first: its id, and in
-- how many ms it ends.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local answer = redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', now), '+inf', 'WITHSCORES')
for i = 2, #answer, 2 do answer[i] = string.format('%.0f', answer[i] - now) end
return answer
