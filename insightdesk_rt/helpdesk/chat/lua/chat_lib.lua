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
-- KEYS  the log's state (hash: top, its last id); then all other keys that the script uses, in any order. A script makes
--       their names from ids and finds them among KEYS (`key`). Some follow from what is stored, such as the queue of a
--       conversation's team. The caller knows them from before, and if they have changed, the script changes nothing and
--       returns {KEYS, names…} (`undeclared`). Its caller then calls it again with these keys.
-- ARGV  base of the keys above · base of the users connected to the chat (presence_lib.lua)
--       · userId · role · teamId · name of the asking user, "" for the server itself · settings in ms: longest wait, idle
--       until warned, idle until closed, customer gone, agent gone · seconds until closed conversations expire · prefix of
--       a customer's UserKey (an agent's UserKey is the id) · then each script's own arguments
local base, present = ARGV[1], ARGV[2]
local declared = {}
for _, name in ipairs(KEYS) do
  declared[name] = true
end
local who = { id = ARGV[3], role = ARGV[4], team = ARGV[5], name = ARGV[6] }
local WAIT, WARN, GONE, LOST = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[10]), tonumber(ARGV[11])
local KEPT_S, CUSTOMER = ARGV[12], ARGV[13]
local now = now_ms()
local staff = who.role == 'agent' or who.role == 'admin'
who.key = who.role == 'customer' and CUSTOMER .. who.id or who.id

local ARGS = #ARGV - 13 -- of the script's own

local function arg(i)
  return ARGV[13 + i]
end

-- ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- Return the key of this name. To use one that was not declared is an error of ours.
local function key(name)
  if not declared[name] then
    error('a key was not declared: ' .. string.match(name, '^[^:]*:[^:]*'))
  end
  return name
end

local function own(name)
  return key(base .. name)
end

local function queue_of(team)
  return own('-queue:' .. team)
end

local function open_of(user_key)
  return own('-open:' .. user_key)
end

local function person(user_key)
  return key(present .. ':' .. user_key)
end

-- Return {KEYS, names…} with those of these names that were not declared, or nil if all were.
local function undeclared(names)
  local missing = { 'KEYS' }
  for _, name in ipairs(names) do
    if not declared[name] then
      missing[#missing + 1] = name
    end
  end
  return #missing > 1 and missing or nil
end

-- Return the keys that follow from where a conversation is: those of its team, customer and agent.
local function keys_of_place(c)
  local customer = CUSTOMER .. c.customerId
  local names = { base .. '-queue:' .. c.teamId, base .. '-open:' .. customer, present .. ':' .. customer }
  if (c.agentId or '') ~= '' then
    names[#names + 1] = base .. '-open:' .. c.agentId
    names[#names + 1] = present .. ':' .. c.agentId
  end
  return names
end

-- ── conversations ───────────────────────────────────────────────────────────────────────────────────────────────────

local function load(id)
  local flat = redis.call('HGETALL', own(':' .. id))
  if #flat == 0 then
    return nil
  end
  local c = { id = id, key = own(':' .. id) }
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

-- Load a conversation. Returns it, and what to return if keys of its place were not declared.
local function find(id)
  local c = load(id)
  return c, c and undeclared(keys_of_place(c))
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

local function online(user_key)
  local status = redis.call('HGET', person(user_key), 'status')
  return (status and status ~= 'offline') and '1' or '0'
end

-- Return how many connected agents could take a conversation that waits for a team: those of the team, or all.
local function agents_here(team)
  if team ~= '' then
    return tonumber(redis.call('HGET', key(present .. '-crew'), team) or 0)
  end
  local count = 0
  for _, status in ipairs({ 'online', 'busy', 'away' }) do
    count = count + redis.call('ZCARD', key(present .. '-agents:' .. status))
  end
  return count
end

-- ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

local function position(c)
  if c.state ~= 'waiting' then
    return 0
  end
  return redis.call('ZRANK', queue_of(c.teamId), c.id) + 1
end

local function row(c)
  return { c.id, position(c), redis.call('HGETALL', c.key) }
end

local function records(c)
  return pending_events(own('-untold:' .. c.id))
end

local function answer(c, ...)
  return { 'ok', row(c), records(c), ... }
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
  add_pending_event(own('-untold'), own('-untold:' .. c.id), c.key, c.id, kind, cjson.encode(fields), now, once)
end

local function schedule(kind, c, at)
  redis.call('ZADD', own('-deadlines'), at, kind .. ':' .. c.id)
end

local function cancel(kind, c)
  redis.call('ZREM', own('-deadlines'), kind .. ':' .. c.id)
end

local function enqueue(c)
  save(c, { state = 'waiting', agentId = '', agentName = '', waitingSince = now, moved = '' })
  redis.call('ZADD', queue_of(c.teamId), c.queuedAt, c.id)
  redis.call('ZADD', own('-waiting'), now, c.id)
  redis.call('INCRBY', own('-waited'), string.format('%.0f', now))
  redis.call('SADD', own('-moved'), c.teamId)
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
  redis.call('ZREM', queue_of(c.teamId), c.id)
  redis.call('ZREM', own('-waiting'), c.id)
  redis.call('DECRBY', own('-waited'), c.waitingSince)
  redis.call('SADD', own('-moved'), c.teamId)
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
  return redis.call('HGET', KEYS[1], 'top') or '0-0'
end

local function activate(c, agent, name)
  if agent ~= c.agentId then
    save(c, { agentOffset = top() })
  end
  save(c, { state = 'active', agentId = agent, agentName = name, agentOnline = online(agent),
    acceptedAt = now, lastAt = now, warned = '0', moved = '' })
  redis.call('ZADD', own('-active'), now, c.id)
  redis.call('ZADD', open_of(agent), now, c.id)
  schedule('idle', c, now + WARN)
  if c.agentOnline ~= '1' then
    schedule('lost', c, now + LOST)
  end
end

local function deactivate(c)
  redis.call('ZREM', own('-active'), c.id)
  redis.call('ZREM', open_of(c.agentId), c.id)
  cancel('idle', c)
  cancel('lost', c)
end

-- The key of the clientIds that a customer used on a day. One key per day, so that each expires: otherwise the clientIds of
-- a customer who starts a conversation every day would never expire.
local function started_on(customer, day)
  return string.format('%s-started:%s:%.0f', base, customer, day)
end

local function open_of_customer(c)
  return open_of(CUSTOMER .. c.customerId)
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
  redis.call('ZADD', own('-closed'), now, c.id)
  redis.call('ZREMRANGEBYSCORE', own('-closed'), '-inf', now - tonumber(KEPT_S) * 1000)
  redis.call('EXPIRE', own('-closed'), KEPT_S)
  for _, kind in ipairs({ ':', '-messages:', '-sent:' }) do
    redis.call('EXPIRE', own(kind .. c.id), KEPT_S)
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
  local day = own('-day:' .. who.id)
  if tonumber(redis.call('GET', day) or 0) + bytes > most then
    return { 'RATE_LIMITED', math.max(redis.call('TTL', day), 1) }
  end
  if redis.call('INCRBY', day, bytes) == bytes then
    redis.call('EXPIRE', day, 86400)
  end
end

-- Store a message. `body` is its JSON object from the third member on; `reads`: its author has read what is before it.
-- Returns the number and the whole text.
local function store_message(c, client_id, body, reads)
  local number = redis.call('HINCRBY', c.key, 'last', 1)
  local text = string.format('{"id":%.0f,"at":%.0f,', number, now) .. body
  redis.call('XADD', own('-messages:' .. c.id), string.format('%.0f-0', number), 'm', text)
  redis.call('HINCRBY', c.key, 'bytes', #text)
  redis.call('HSET', own('-sent:' .. c.id), sent_as(client_id), string.format('%.0f', number))
  save(c, { lastAt = now, warned = '0' })
  if reads then
    save(c, { [staff and 'readByAgent' or 'readByCustomer'] = number })
  end
  return number, text
end
