-- Load calls or agents of one partition, with the outcomes of their operations: the first of those requested, within a limit of bytes,
-- but at least one.
-- Idempotent: reads.
--
-- KEYS: blocks, then for each: state, user data, done. ARGV: maximum bytes, then for each: its name, number of operations, the operations.
-- Returns for each of the first {fields, user data, outcome of each operation, block}, or {false, block} where one of its keys is not a
-- hash.
local most, bytes, at = tonumber(ARGV[1]), 0, 1
local answers = {}

local function size_of(values)
  local size = 0
  for _, value in ipairs(values) do
    if value then size = size + #value end
  end
  return size
end

for key = 2, #KEYS, 3 do
  local name, count = ARGV[at + 1], tonumber(ARGV[at + 2])
  local fields = redis.pcall('HMGET', KEYS[key], 'version', 'doc', 'keys')
  local data = redis.pcall('HGETALL', KEYS[key + 1])
  local dones, is_hash = {}, not (fields.err or data.err)
  -- One by one: Lua limits the number of arguments of a call.
  for i = 1, count do
    local done = redis.pcall('HGET', KEYS[key + 2], ARGV[at + 2 + i])
    if type(done) == 'table' and done.err then
      is_hash = false
      break
    end
    dones[i] = done
  end
  at = at + 2 + count
  local mark = redis.call('HGET', KEYS[1], name)
  if is_hash then
    bytes = bytes + size_of(fields) + size_of(data) + size_of(dones)
    if #answers > 0 and bytes > most then return answers end
    answers[#answers + 1] = {fields, data, dones, mark}
  else
    answers[#answers + 1] = {false, mark}
  end
end
return answers
