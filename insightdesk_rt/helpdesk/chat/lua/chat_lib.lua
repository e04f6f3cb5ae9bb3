-- Library of the chat scripts (after pending_events.lua): the keys, the access rules, and the changes of state.
--
-- <base>:<id>             hash: one conversation; "" or a missing field means none. moved: the request of the last transfer,
--                         until the conversation changes otherwise
-- <base>-messages:<id>    stream: its messages as JSON under the ids 1-0, 2-0, …
-- <base>-sent:<id>        hash: sent_as(clientId) → message number
-- <base>-started:<userId>:<day>  hash: clientId → conversation, for two days
-- <base>-day:<userId>     bytes that a customer stored, for a day from the first one on
-- <base>-open:<UserKey>   zset: a customer's conversations that are not closed, or those an agent has taken → since when
-- <base>-queue:<teamId>   zset: waiting conversations → when they first began to wait, so that they keep their place
-- <base>-waiting          zset: all waiting conversations → since when this time; <base>-waited is the sum of these times
-- <base>-moved            set: queues in which places changed, and this was not published yet
-- <base>-active           zset: conversations that an agent has taken → since when
-- <base>-closed          zset: closed conversations → when they were closed
-- <base>-deadlines        zset: <kind>:<id> → when the server acts by itself (chat_due.lua)
--
-- waiting → active (accept, transfer to an agent) → waiting (transfer to a team, agent gone) → … → closed, for good.
--
-- KEYS  base · base of the users connected to the chat (presence_lib.lua) · the log's state (hash: top, its last id)
-- ARGV  userId · role · teamId · name of the asking user, "" for the server itself · settings in ms: longest wait, idle
--       until warned, idle until closed, customer gone, agent gone · seconds until closed conversations expire · prefix of
--       a customer's UserKey (an agent's UserKey is the id) · then each script's own arguments
local base, present = KEYS[1], KEYS[2]
local who = { id = ARGV[1], role = ARGV[2], team = ARGV[3], name = ARGV[4] }
local WAIT, WARN, GONE, LOST = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[8]), tonumber(ARGV[9])
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

-- ── access ──────────────────────────────────────────────────────────────────────────────────────────────────────────

local function may_see(c)
  if who.role == 'admin' then
    return true
  end
  if staff then
    return c.teamId == '' or c.teamId == who.team or c.agentId == who.id
  end
  return c.customerId == who.id
end

-- The role decides which of the two ids counts, since a customer may have the same id as an agent.
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

-- Return how many connected agents could take a conversation that waits for a team: those of the team, or all.
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

-- ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

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

-- The same answer for a conversation that does not exist and for one that is not theirs.
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

local function schedule(kind, c, at)
  redis.call('ZADD', base .. '-deadlines', at, kind .. ':' .. c.id)
end

local function cancel(kind, c)
  redis.call('ZREM', base .. '-deadlines', kind .. ':' .. c.id)
end

local function enqueue(c)
  save(c, { state = 'waiting', agentId = '', agentName = '', waitingSince = now, moved = '' })
  redis.call('ZADD', base .. '-queue:' .. c.teamId, c.queuedAt, c.id)
  redis.call('ZADD', base .. '-waiting', now, c.id)
  redis.call('INCRBY', base .. '-waited', string.format('%.0f', now))
  redis.call('SADD', base .. '-moved', c.teamId)
  schedule('wait', c, now + WAIT)
  if c.customerOnline ~= '1' and c.via ~= 'backend' then
    schedule('gone', c, now + GONE)
  end
  report(c, 'queued', {
    customerName = c.customerName, subject = c.subject, preview = c.preview,
    queuedAt = tonumber(c.queuedAt), waitingSince = now,
  })
end

local function unqueue(c)
  redis.call('ZREM', base .. '-queue:' .. c.teamId, c.id)
  redis.call('ZREM', base .. '-waiting', c.id)
  redis.call('DECRBY', base .. '-waited', c.waitingSince)
  redis.call('SADD', base .. '-moved', c.teamId)
  cancel('wait', c)
  cancel('gone', c)
end

local function dequeue(c)
  unqueue(c)
  redis.call('HDEL', c.key, 'position')
  report(c, 'dequeued', {})
end

-- Return the end of the log. All later events come after it.
local function top()
  return redis.call('HGET', KEYS[3], 'top') or '0-0'
end

local function activate(c, agent, name)
  if agent ~= c.agentId then
    save(c, { agentOffset = top() })
  end
  save(c, { state = 'active', agentId = agent, agentName = name, agentOnline = online(agent),
    acceptedAt = now, lastAt = now, warned = '0', moved = '' })
  redis.call('ZADD', base .. '-active', now, c.id)
  redis.call('ZADD', base .. '-open:' .. agent, now, c.id)
  schedule('idle', c, now + WARN)
  if c.agentOnline ~= '1' then
    schedule('lost', c, now + LOST)
  end
end

local function deactivate(c)
  redis.call('ZREM', base .. '-active', c.id)
  redis.call('ZREM', base .. '-open:' .. c.agentId, c.id)
  cancel('idle', c)
  cancel('lost', c)
end

-- The key of the clientIds that a customer used on a day. One key per day, so that each expires: otherwise the clientIds of
-- a customer who starts a conversation every day would never expire.
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

-- Return a name for a clientId of the asking user, unique within a conversation. The length distinguishes "a" and "b:c"
-- from "a:b" and "c"; the side distinguishes a customer from an agent with the same id.
local function sent_as(client_id)
  return string.format('%s:%d:%s:%s', staff and 's' or 'c', #who.id, who.id, client_id)
end

-- Count bytes that the asking user stores. Return nil, or the refusal of a customer who has used the limit of a day.
-- Otherwise one account could fill the memory as fast as its rate allows.
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

-- Store a message. `body` is its JSON object from the third member on; `reads`: its author has read what is before it.
-- Returns the number and the whole text.
local function store_message(c, client_id, body, reads)
  local number = redis.call('HINCRBY', c.key, 'last', 1)
  local text = string.format('{"id":%.0f,"at":%.0f,', number, now) .. body
  redis.call('XADD', base .. '-messages:' .. c.id, string.format('%.0f-0', number), 'm', text)
  redis.call('HINCRBY', c.key, 'bytes', #text)
  redis.call('HSET', base .. '-sent:' .. c.id, sent_as(client_id), string.format('%.0f', number))
  save(c, { lastAt = now, warned = '0' })
  if reads then
    save(c, { [staff and 'readByAgent' or 'readByCustomer'] = number })
  end
  return number, text
end
