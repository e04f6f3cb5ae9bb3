-- Library of the chat scripts (after pending_events.lua): keys, who may do what, and the changes of state.
--
-- <base>:<id>             hash: one conversation; "" or a missing field means none. moved: the request of the last transfer,
--                         until something else happens to it
-- <base>-messages:<id>    stream: its messages as JSON under the ids 1-0, 2-0, …
-- <base>-sent:<id>        hash: sent_as(clientId) → message number
-- <base>-started:<userId>:<day>  hash: clientId → conversation, for two days
-- <base>-day:<userId>     bytes that a customer has had kept, for a day from the first on
-- <base>-open:<UserKey>   zset: conversations that are not closed of a customer, or that an agent has taken → since when
-- <base>-queue:<teamId>   zset: those that wait → when they first did: who is sent back to wait keeps their place
-- <base>-waiting          zset: all of those → since when they wait this time; <base>-waited is the sum of these times
-- <base>-moved            set: queues in which places have changed and nobody was told yet
-- <base>-active           zset: conversations an agent has taken → since when
-- <base>-closed          zset: those that are kept → when they were closed
-- <base>-deadlines        zset: <kind>:<id> → when the server does something by itself (chat_due.lua)
--
-- waiting → active (accept, transfer to an agent) → waiting (transfer to a team, agent gone) → … → closed, for good.
--
-- KEYS  base · base of who is in the chat (presence_lib.lua) · tops (hash: namespace -> last id of its log)
-- ARGV  userId · role · teamId · name of who asks, "" for the server itself · settings in ms: longest wait, idle until
--       warned, idle until closed, customer gone, agent gone · seconds a closed one is kept · what a customer's UserKey has
--       in front of the id (an agent's is the id) · then each script's own
local base, present = KEYS[1], KEYS[2]
local who = { id = ARGV[1], role = ARGV[2], team = ARGV[3], name = ARGV[4] }
local WAIT, WARN, IDLE, GONE, LOST = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]),
  tonumber(ARGV[9])
local KEPT_S, CUSTOMER = ARGV[10], ARGV[11]
local now = now_ms()
local staff = who.role == 'agent' or who.role == 'admin'
who.key = who.role == 'customer' and CUSTOMER .. who.id or who.id

local function arg(i)
  return ARGV[11 + i]
end

local function load(id)
  local flat = redis.call('HGETALL', base .. ':' .. id)
  if #flat == 0 then
    return nil
  end
  local c = { id = id, key = base .. ':' .. id }
  for i = 1, #flat, 2 do
    c[flat[i]] = flat[i + 1]
  end
  return c
end

local function save(c, fields)
  local row = {}
  for name, value in pairs(fields) do
    c[name] = type(value) == 'number' and string.format('%.0f', value) or value
    row[#row + 1] = name
    row[#row + 1] = c[name]
  end
  redis.call('HSET', c.key, unpack(row))
end

-- ── who may ─────────────────────────────────────────────────────────────────────────────────────────────────────────

local function may_see(c)
  if who.role == 'admin' then
    return true
  end
  if staff then
    return c.teamId == '' or c.teamId == who.team or c.agentId == who.id
  end
  return c.customerId == who.id
end

-- A customer's id in agentId would make them no agent: the role decides which of the two fields counts.
local function is_member(c)
  if staff then
    return c.agentId == who.id
  end
  return c.customerId == who.id
end

local function online(key)
  local status = redis.call('HGET', present .. ':' .. key, 'status')
  return (status and status ~= 'offline') and '1' or '0'
end

-- How many of the agents who could take what waits for a team are in the chat: those of the team, or all without one.
local function agents_here(team)
  if team ~= '' then
    return redis.call('SCARD', present .. '-crew:' .. team)
  end
  local count = 0
  for _, status in ipairs({ 'online', 'busy', 'away' }) do
    count = count + redis.call('ZCARD', present .. '-agents:' .. status)
  end
  return count
end

-- ── what a script answers ───────────────────────────────────────────────────────────────────────────────────────────

local function position(c)
  if c.state ~= 'waiting' then
    return 0
  end
  return redis.call('ZRANK', base .. '-queue:' .. c.teamId, c.id) + 1
end

local function row(c)
  return { c.id, position(c), redis.call('HGETALL', c.key) }
end

local function answer(c, ...)
  return { 'ok', row(c), pending_events(base, c.id), ... }
end

-- The same for what is not there and what is not theirs.
local function forbidden()
  return { 'FORBIDDEN' }
end

local function conflict(c, why)
  return { 'CONFLICT', c.state or '', c.agentId or '', c.agentName or '', why or '' }
end

-- ── changes ─────────────────────────────────────────────────────────────────────────────────────────────────────────

local function report(c, kind, fields, once)
  fields.conversationId, fields.customerId, fields.teamId = c.id, c.customerId, c.teamId
  fields.agentId, fields.agentName = c.agentId, c.agentName
  fields.at, fields.byId, fields.byName = now, who.id, who.name
  add_pending_event(base, c.id, c.key, kind, cjson.encode(fields), now, once)
end

local function later(kind, c, at)
  redis.call('ZADD', base .. '-deadlines', at, kind .. ':' .. c.id)
end

local function never(kind, c)
  redis.call('ZREM', base .. '-deadlines', kind .. ':' .. c.id)
end

local function enqueue(c)
  save(c, { state = 'waiting', agentId = '', agentName = '', waitingSince = now, moved = '' })
  redis.call('ZADD', base .. '-queue:' .. c.teamId, c.queuedAt, c.id)
  redis.call('ZADD', base .. '-waiting', now, c.id)
  redis.call('INCRBY', base .. '-waited', string.format('%.0f', now))
  redis.call('SADD', base .. '-moved', c.teamId)
  later('wait', c, now + WAIT)
  if c.customerOnline ~= '1' then
    later('gone', c, now + GONE)
  end
  report(c, 'queued', {
    customerName = c.customerName, subject = c.subject, preview = c.preview,
    queuedAt = tonumber(c.queuedAt), waitingSince = now,
  })
end

local function dequeue(c)
  redis.call('ZREM', base .. '-queue:' .. c.teamId, c.id)
  redis.call('ZREM', base .. '-waiting', c.id)
  redis.call('DECRBY', base .. '-waited', c.waitingSince)
  redis.call('SADD', base .. '-moved', c.teamId)
  redis.call('HDEL', c.key, 'position')
  never('wait', c)
  never('gone', c)
  report(c, 'dequeued', {})
end

-- The end of the log: what is told from now on comes after it.
local function top()
  return redis.call('HGET', KEYS[3], '/chat') or '0-0'
end

local function activate(c, agent, name)
  if agent ~= c.agentId then
    save(c, { agentOffset = top() })
  end
  save(c, { state = 'active', agentId = agent, agentName = name, agentOnline = online(agent),
    acceptedAt = now, lastAt = now, warned = '0', moved = '' })
  redis.call('ZADD', base .. '-active', now, c.id)
  redis.call('ZADD', base .. '-open:' .. agent, now, c.id)
  later('idle', c, now + WARN)
  if c.agentOnline ~= '1' then
    later('lost', c, now + LOST)
  end
end

local function deactivate(c)
  redis.call('ZREM', base .. '-active', c.id)
  redis.call('ZREM', base .. '-open:' .. c.agentId, c.id)
  never('idle', c)
  never('lost', c)
end

-- The clientIds a customer used on a day. By day, so that each day's ends: of one who starts a conversation a day all would
-- be remembered for ever.
local function started_on(customer, day)
  return string.format('%s-started:%s:%.0f', base, customer, day)
end

local function open_of_customer(c)
  return base .. '-open:' .. CUSTOMER .. c.customerId
end

local function close(c, reason)
  if c.state == 'waiting' then
    dequeue(c)
  else
    deactivate(c)
  end
  save(c, { state = 'closed', closedAt = now, closedReason = reason, closedById = who.id, closedByName = who.name,
    moved = '' })
  redis.call('ZREM', open_of_customer(c), c.id)
  redis.call('ZADD', base .. '-closed', now, c.id)
  redis.call('ZREMRANGEBYSCORE', base .. '-closed', '-inf', now - tonumber(KEPT_S) * 1000)
  redis.call('EXPIRE', base .. '-closed', KEPT_S)
  for _, kind in ipairs({ ':', '-messages:', '-sent:' }) do
    redis.call('EXPIRE', base .. kind .. c.id, KEPT_S)
  end
  report(c, 'closed', { reason = reason })
end

-- What a clientId of who asks is called among those of a conversation. The length tells "a" and "b:c" from "a:b" and "c",
-- the side a customer from an agent of the same id.
local function sent_as(client_id)
  return string.format('%s:%d:%s:%s', staff and 's' or 'c', #who.id, who.id, client_id)
end

-- Count bytes that who asks has kept. Answer nil, or the refusal of a customer who has had as many kept within a day as
-- they may: one account would else fill the memory of all, as fast as its rate allows.
local function spend(bytes, most)
  if staff or bytes == 0 then
    return nil
  end
  local key = base .. '-day:' .. who.id
  if tonumber(redis.call('GET', key) or 0) + bytes > most then
    return { 'RATE_LIMITED', math.max(redis.call('TTL', key), 1) }
  end
  if redis.call('INCRBY', key, bytes) == bytes then
    redis.call('EXPIRE', key, 86400)
  end
end

-- Keep a message; body is the rest of its JSON object, from the second member on. Returns number and whole text.
local function say(c, client_id, body)
  local number = redis.call('HINCRBY', c.key, 'last', 1)
  local text = string.format('{"id":%.0f,"at":%.0f,', number, now) .. body
  redis.call('XADD', base .. '-messages:' .. c.id, string.format('%.0f-0', number), 'm', text)
  redis.call('HINCRBY', c.key, 'bytes', #text)
  redis.call('HSET', base .. '-sent:' .. c.id, sent_as(client_id), string.format('%.0f', number))
  save(c, { lastAt = now, warned = '0', [staff and 'readByAgent' or 'readByCustomer'] = number })
  return number, text
end
