-- Library of the presence scripts (after pending_events.lua): the keys, and the changes that all scripts share.
--
-- <base>:<userId>       hash: status, lastSeen (ms), chosen, role, teamId, name, seq; "@<incarnation>" for each node that
--                       holds connections of the user, and how many those are: held
-- <base>-node:<inc>     set of the users an incarnation holds, for reaping
-- <base>-nodes          set of the incarnations that hold anybody
-- <base>-grace          zset: users without a connection → when they count as offline
-- <base>-dead           zset: incarnations that were declared dead → when; they cannot hold anybody any more
-- <base>-agents:<status> zset: agents and admins by status → since when
-- <base>-crew:<teamId>  set of the agents and admins of a team who are not offline; `crew` in the user's hash is "=<teamId>"
--                       for one who is in such a set
--
-- Nodes decide whether a user is online; the user chooses busy or away. Neither changes the other.
local base = KEYS[1]
local STAFF = { agent = true, admin = true }
-- How long an absent user is stored: an agent through a holiday, a customer for a day.
local STAFF_S, OTHERS_S, DEAD_MS = 30 * 86400, 86400, 86400000

local function user_key(user)
  return base .. ':' .. user
end

-- Count the user under this status, if it is staff, and no longer under the other one.
local function count(user, role, was, status, now)
  if was then
    redis.call('ZREM', base .. '-agents:' .. was, user)
  end
  if STAFF[role] then
    redis.call('ZADD', base .. '-agents:' .. status, now, user)
  end
end

-- Put the user into the set of their team's connected staff, and into no other. Idempotent.
local function enlist(user)
  local key = user_key(user)
  local status, role, team, crew = unpack(redis.call('HMGET', key, 'status', 'role', 'teamId', 'crew'))
  local wanted = status and status ~= 'offline' and STAFF[role] and '=' .. (team or '') or nil
  if (crew or nil) == wanted then
    return
  end
  if crew then
    redis.call('SREM', base .. '-crew:' .. string.sub(crew, 2), user)
    redis.call('HDEL', key, 'crew')
  end
  if wanted then
    redis.call('SADD', base .. '-crew:' .. team, user)
    redis.call('HSET', key, 'crew', wanted)
  end
end

-- Change the user's status: store it, count it, and add the pending event.
local function set_status(user, status, now)
  local key = user_key(user)
  local was, role, team, seen = unpack(redis.call('HMGET', key, 'status', 'role', 'teamId', 'lastSeen'))
  redis.call('HSET', key, 'status', status)
  count(user, role, was, status, now)
  enlist(user)
  if status == 'offline' then
    redis.call('EXPIRE', key, STAFF[role] and STAFF_S or OTHERS_S)
  else
    redis.call('PERSIST', key)
  end
  add_pending_event(base, user, key, 'status', cjson.encode({
    userId = user, status = status, teamId = team or '', lastSeen = tonumber(seen) or now, was = was or 'offline',
  }), now)
end

-- A node does not hold the user any more. If no other node does, the grace period begins.
local function drop(user, node, now, grace)
  local users, key = base .. '-node:' .. node, user_key(user)
  if redis.call('SREM', users, user) == 1 and redis.call('EXISTS', users) == 0 then
    redis.call('SREM', base .. '-nodes', node)
  end
  if redis.call('HDEL', key, '@' .. node) == 0 then
    return 0
  end
  redis.call('HSET', key, 'lastSeen', string.format('%.0f', now))
  if redis.call('HINCRBY', key, 'held', -1) > 0 then
    return 0
  end
  redis.call('ZADD', base .. '-grace', now + grace, user)
  return 1
end
