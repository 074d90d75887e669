-- prelude
-- Make a node the home of a CometD session, and save it. The raised cycle fences off later saves of another home.
-- Idempotent: the request that took a session over last is recognised by its id.
--
-- KEYS: session, the user's sessions, nodes, stream. ARGV: JSON {node, registered_ms}, JSON {digest, request, cycle, saved?, has_moved,
-- lifetime_ms, fields, times, changes, backfills, filled}: `cycle` and `saved` are the values that the node has read; `has_moved`:
-- another node was the home.
-- Returns {1, number of changes of its subscriptions, end of the stream}, or {0} where it was taken over, saved or ended since.
-- A repeated request changes nothing.
local common, a, at = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), now()
local cycle, saved, changes, claim = unpack(redis.call('HMGET', KEYS[1], 'cycle', 'saved', 'changes', 'claim'))
if claim ~= a.request then
  if cycle ~= a.cycle or (a.saved and saved ~= a.saved) then return {0} end
  write_session(KEYS[1], a, at, changes)
  redis.call('HSET', KEYS[1], 'home', common.node, 'cycle', cycle + 1, 'saved', 0, 'claim', a.request, 'connected', 1)
  if a.has_moved then redis.call('HSET', KEYS[1], 'moved', integer(at)) end
  keep_session(KEYS[1], KEYS[2], a.digest, at, a.lifetime_ms)
end
redis.call('SADD', KEYS[3], common.node)
redis.call('PEXPIRE', KEYS[3], common.registered_ms)
return {1, changes, integer(tail_of(KEYS[4]))}
