-- prelude
-- Read a CometD session for a connect that its home does not serve from memory; end it if its login has ended or its client is inactive.
-- Idempotent: the request that ended a session is recognised by its id.
--
-- KEYS: session, stream, the user's sessions, end of the session. ARGV: JSON {digest, request, known_ms, proven, login, credential?,
-- silent_ms?, events_count?, most, most_bytes}. `silent_ms`: maximum time without messages other than connects; `events_count`: events
-- sent to the client count as activity.
-- Returns {'unknown'}, {'left'} (the client has just disconnected), {'unproven'}, {'ended', reason, home}, or {'ok', fields, position
-- after which the client may lack entries, these entries, 1 if there are more}. A repeated request gets the same reply.
local a, at = cjson.decode(ARGV[1]), now()
local raw, session = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #raw, 2 do session[raw[i]] = raw[i + 1] end
if not session.home then
  local request, why, former, login = end_of_session(KEYS[4])
  if request == a.request then return {'ended', why, former} end
  if why ~= 'disconnected' then return {'unknown'} end
  return {(a.proven or (a.login ~= '' and a.login == login)) and 'left' or 'unproven'}
end
if not a.proven and (a.login == '' or a.login ~= session.login) then return {'unproven'} end

local why
if (session.ends and at >= tonumber(session.ends)) or (a.credential and a.credential ~= session.credential) then
  why = 'login_ended'
elseif a.silent_ms then
  local active = tonumber(session.active)
  if a.events_count then active = math.max(active, tonumber(session.delivered or 0)) end
  if at - active > a.silent_ms then why = 'inactive' end
end
if why then
  end_session(KEYS[1], KEYS[3], KEYS[4], a, why, session.home, session.login)
  return {'ended', why, session.home}
end

for name, ms in pairs({active_ago = at - session.active, moved_ago = at - (session.moved or 0), ends_in = session.ends and session.ends - at}) do
  raw[#raw + 1], raw[#raw + 2] = name, integer(ms)
end
local after = session.ack == '1' and session.confirmed or session.sent
local entries, has_more = page_of(KEYS[2], tonumber(after), a.most, a.most_bytes)
return {'ok', raw, after, entries, has_more}
