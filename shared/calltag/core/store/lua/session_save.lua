-- prelude
-- Save sessions of a home; the reply shows whether each is still its own, and whether it missed a change or an event.
-- Idempotent: the number of a save, which another cycle does not have, is that of the last one.
--
-- KEYS: for each session: session, the user's sessions, nodes, stream, end of the session. ARGV: JSON {node, registered_ms}, then for
-- each session JSON {digest, cycle, verify, number, lifetime_ms, fields, times, changes, backfills, filled}: a save whose `number` is
-- not above the last one is stale and has no effect; `verify`: the lease of the home has lapsed since its last save, so the cycle rises
-- to refuse pending take-overs. A longer TTL set by messages other than connects stays in force.
-- Returns for each {1, number of changes of its subscriptions, end of the stream, cycle}, or {0, why it ended, '' where it moved}.
local common, at, answers = cjson.decode(ARGV[1]), now(), {}
for i = 2, #ARGV do
  local a, k = cjson.decode(ARGV[i]), 5 * (i - 2)
  local home, cycle, changes, saved, kept = unpack(redis.call('HMGET', KEYS[k + 1], 'home', 'cycle', 'changes', 'saved', 'kept'))
  local was_verified = a.verify and tonumber(cycle) == a.cycle + 1 and tonumber(saved) == a.number
  local is_here = home == common.node and (cycle == a.cycle or was_verified)
  if is_here and a.number > tonumber(saved) then
    if a.verify then cycle = redis.call('HINCRBY', KEYS[k + 1], 'cycle', 1) end
    redis.call('HSET', KEYS[k + 1], 'saved', a.number)
    write_session(KEYS[k + 1], a, at, changes)
    keep_session(KEYS[k + 1], KEYS[k + 2], a.digest, at, math.max(a.lifetime_ms, (kept or 0) - at))
    redis.call('SADD', KEYS[k + 3], common.node)
    redis.call('PEXPIRE', KEYS[k + 3], common.registered_ms)
  end
  answers[#answers + 1] = is_here and {1, changes, integer(tail_of(KEYS[k + 4])), tonumber(cycle)}
    or {0, home and '' or select(2, end_of_session(KEYS[k + 5])) or 'expired'}
end
return answers
