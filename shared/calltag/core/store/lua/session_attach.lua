-- A /meta/connect: the session moves to the node that asks, which gets all that the client lacks.
--
-- KEYS: session, stream, nodes, the user's sessions, end of the session. ARGV: session, node, lifetime in ms, how long a node stays registered in
-- ms, most entries, position and generation that the client acknowledges ('', '' if it does not), whether to send again what is not
-- confirmed ('1' or '0'), the cycle in which the node holds the session ('' if it does not) and the position up to which it has the
-- stream, whether this is a connect ('1') or the holder only looks again after subscriptions changed ('0'), whether the caller is
-- proven to be the session's user ('1' or '0'), the login that the caller shows ('' for none), which proves it if it is the session's,
-- the position up to which the node has sent the stream, how long the client may have sent nothing but connects in ms ('' for ever),
-- how long ago the node has sent an event in ms ('' if it has not), whether that is activity too ('1' or '0'), and for how long other
-- messages may keep the session alive without a connect in ms ('' for ever), the credential that the session must have begun with
-- ('' if that does not matter), the generation that the node knows ('' for none), and the position up to which it had sent the stream
-- when it answered the last connect, id of the request, for how long in ms the end of the session is known, and most bytes of entries.
-- Answers {'unknown'}, {'left'} (the client has ended the session a moment ago), {'unproven'}, {'moved'} (a look of a node that is not the holder), {'ended', why, holder before}, or {'ok', fields as they are now, position that the
-- entries begin after, entries, holder before, whether there are more entries ('1' or '0')}. The same request gets the same answer again.
local function newest()
  local entry = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  if not entry then return 0 end
  local ms, sequence = string.match(entry[1], '(%d+)-(%d+)')
  return ms * 100 + sequence
end

local function page(from, most, most_bytes)
  local entries, bytes = {}, 0
  while true do
    local found = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', 16)
    for _, entry in ipairs(found) do
      for _, field in ipairs(entry[2]) do bytes = bytes + #field end
      if #entries >= most or (#entries > 0 and bytes > most_bytes) then return entries, '1' end
      entries[#entries + 1] = entry
      from = '(' .. entry[1]
    end
    if #found < 16 then return entries, '0' end
  end
end

local function answer(after, sent, holder)
  local from = string.format('(%.0f-%.0f', math.floor(after / 100), after % 100)
  local entries, has_more = page(from, tonumber(ARGV[5]), tonumber(ARGV[24]))
  local fields = redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    if fields[i] == 'sent' then fields[i + 1] = string.format('%.0f', sent) end
  end
  return {'ok', fields, string.format('%.0f', after), entries, holder, has_more}
end

local raw = redis.call('HGETALL', KEYS[1])
local login = ARGV[13]
if #raw == 0 then
  local request, why, former, left = string.match(redis.call('GET', KEYS[5]) or '', '^(%S+) (%S+) (%S+) (%S*)')
  if request == ARGV[22] then return {'ended', why, former} end
  if why ~= 'left' or ARGV[11] ~= '1' then return {'unknown'} end
  if ARGV[12] == '1' or (login ~= '' and login == left) then return {'left'} end
  return {'unproven'}
end
local session, fresh, unsure = {}, {}, {}
local earliest
for i = 1, #raw, 2 do
  session[raw[i]] = raw[i + 1]
  if string.sub(raw[i], 1, 2) == 'f:' then
    fresh[string.sub(raw[i], 3)] = raw[i]
    if not earliest or tonumber(raw[i + 1]) < earliest then earliest = tonumber(raw[i + 1]) end
  elseif string.sub(raw[i], 1, 2) == 'u:' then
    unsure[string.sub(raw[i], 3)] = raw[i]
  end
end
if ARGV[12] ~= '1' and (login == '' or login ~= session.login) then return {'unproven'} end
-- What the session has answered last: the request, the position that the entries began after, the position sent, the holder before.
local request, began, reached, former = string.match(session.answered or '', '^(%S+) (%d+) (%d+) (%S+)$')
if request == ARGV[22] then return answer(began, reached, former) end
local held = session.holder == ARGV[2] and session.cycle == ARGV[9]
-- Whether the node has had every answer: otherwise it does not know that the session has gone back in its stream.
local current = held and session.generation == ARGV[20]
local is_connect = ARGV[11] == '1'
if not is_connect and not held then return {'moved'} end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local told = tonumber(session.told or 0)
if held and ARGV[16] ~= '' then told = math.max(told, now - ARGV[16]) end
local why
if (session.ends and now >= tonumber(session.ends)) or (ARGV[19] ~= '' and ARGV[19] ~= session.credential) then
  why = 'login_ended'
elseif is_connect and ARGV[15] ~= '' then
  local active = tonumber(session.active or now)
  if ARGV[17] == '1' then active = math.max(active, told) end
  if now - active > tonumber(ARGV[15]) then why = 'inactive' end
end
if why then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[4], ARGV[1])
  redis.call('SET', KEYS[5], table.concat({ARGV[22], why, session.holder, session.login or ''}, ' '), 'PX', ARGV[23])
  return {'ended', why, session.holder}
end

-- What the client has for certain: who connects again had the answer before. What was pushed since may be on its way, or lost.
local confirmed, sent = tonumber(session.confirmed), tonumber(session.sent)
local has = sent
if current then sent = math.max(sent, tonumber(ARGV[14])) end
if held then has = math.min(sent, tonumber(ARGV[21])) end
local acknowledged = tonumber(ARGV[6])
if is_connect and session.ack == '1' then
  if acknowledged and ARGV[7] == session.generation and acknowledged > confirmed then
    -- What was sent may not have been saved (yet): then the client's word counts, as far as there is a stream.
    if acknowledged > sent then sent = math.max(sent, math.min(acknowledged, newest())) end
    confirmed = math.min(acknowledged, sent)
  end
elseif is_connect and ARGV[8] ~= '1' then
  confirmed = math.max(confirmed, has)
end
local after = confirmed
-- To a client that lacks nothing, as far as it knows, nothing is sent again.
local goes_on = session.ack ~= '1' and not (is_connect and ARGV[8] == '1')
if is_connect and goes_on then after = sent end
if current and (not is_connect or (after >= sent and tonumber(ARGV[10]) > after)) then after = tonumber(ARGV[10]) end

-- A client without acknowledgment says with its next connect whether it lacks what was sent before the stream was taken back. If it
-- does not, it has that for certain when it was answered after that had been passed.
if is_connect then
  for name, field in pairs(unsure) do
    if ARGV[8] == '1' and session['s:' .. name] and not fresh[name] then
      fresh[name] = field
      earliest = math.min(earliest or tonumber(session[field]), tonumber(session[field]))
      session['s:' .. name] = session[field]
      redis.call('HSET', KEYS[1], 's:' .. name, session[field])
    end
    if ARGV[8] == '1' or not held or has >= tonumber(session['s:' .. name] or 0) then
      redis.call('HDEL', KEYS[1], field)
      unsure[name] = nil
    end
  end
end

-- Subscriptions that are new here, and perhaps want what was: the stream is read again from there. The others want what the client
-- has not: with what waits at the node, that is more than follows `after`.
local had = confirmed
if goes_on then had = sent end
local changes = {}
if login ~= '' and login ~= session.login then changes = {'login', login} end
if earliest and earliest < after then
  for name, since in pairs(session) do
    if string.sub(name, 1, 2) == 's:' and not fresh[string.sub(name, 3)] then
      local from = math.max(tonumber(since), had)
      changes[#changes + 1] = name
      changes[#changes + 1] = string.format('%.0f', from)
      earliest = math.min(earliest, from)
      local lacked = math.max(tonumber(since), confirmed)
      if lacked < from and not unsure[string.sub(name, 3)] then
        changes[#changes + 1] = 'u:' .. string.sub(name, 3)
        changes[#changes + 1] = string.format('%.0f', lacked)
      end
    end
  end
  after, confirmed, sent = earliest, earliest, earliest
  changes[#changes + 1] = 'generation'
  changes[#changes + 1] = (session.generation + 1) % 16
end
for name, field in pairs(fresh) do redis.call('HDEL', KEYS[1], field, 'u:' .. name) end

-- What is sent again, perhaps not all at once, counts as sent when it was.
local known = sent
if is_connect and session.ack ~= '1' and ARGV[8] == '1' then known = confirmed end
if is_connect then redis.call('HINCRBY', KEYS[1], 'cycle', 1) end
redis.call('HSET', KEYS[1], 'holder', ARGV[2], 'confirmed', string.format('%.0f', confirmed),
  'answered', string.format('%s %.0f %.0f %s', ARGV[22], after, sent, session.holder),
  'sent', string.format('%.0f', known), 'told', string.format('%.0f', told), unpack(changes))
if ARGV[18] ~= '' then redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + ARGV[18])) end
-- A look keeps nothing alive: what changed the subscriptions has done so.
if is_connect then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  redis.call('ZADD', KEYS[4], string.format('%.0f', now + ARGV[3]), ARGV[1])
  redis.call('PEXPIRE', KEYS[4], ARGV[4])
end
redis.call('SADD', KEYS[3], ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
return answer(after, sent, session.holder)
