-- Returns the session under KEYS[1] (false if there is none), and 1 if its idle time (ARGV[1], ms) was restarted, which is done only when
-- more than a tenth of it has passed.
-- Idempotent: restarts the idle time.
local record = redis.call('GET', KEYS[1])
local renewed = 0
if record and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) * 0.9 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  renewed = 1
end
return {record, renewed}
