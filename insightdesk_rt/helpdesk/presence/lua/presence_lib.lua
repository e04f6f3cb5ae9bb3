-- Library of the presence scripts (after pending_events.lua): keys, and the three changes everything is made of.
--
-- <base>:<userId>       hash: status, lastSeen (ms), chosen, role, teamId, name, seq; "@<incarnation>" for each node that
--                       holds connections of the user, and how many those are: held
-- <base>-node:<inc>     set of the users an incarnation holds, for reaping
-- <base>-nodes          set of the incarnations that hold anybody
-- <base>-grace          zset: users without a connection → when they count as offline
-- <base>-dead           zset: incarnations that were declared dead → when; they can hold nobody any more
-- <base>-agents:<status> zset: agents and admins by status → since when
-- <base>-crew:<teamId>  set of the agents and admins of a team who are not offline; `crew` in the user's hash is "=<teamId>"
--                       for one who is in such a set
--
-- Online or not is what nodes say; busy or away is what the user chose; neither changes the other.
local base = KEYS[1]
local STAFF = { agent = true, admin = true }
-- How long an absent user is remembered: an agent through a holiday, a customer for a day.
local STAFF_S, OTHERS_S, DEAD_MS = 30 * 86400, 86400, 86400000

local function user_key(user)
  return base .. ':' .. user
end

-- The user is counted as an agent under this status now, and no more under the other.
local function count(user, role, was, status, now)
  if was then
    redis.call('ZREM', base .. '-agents:' .. was, user)
  end
  if STAFF[role] then
    redis.call('ZADD', base .. '-agents:' .. status, now, user)
  end
end

-- See that the user is in the set of those of their team who are here, and in no other. Again is nothing.
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

-- The user's status is another one now: keep it, count it, have it told.
local function turn(user, status, now)
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
    userId = user, status = status, teamId = team or '', lastSeen = tonumber(seen) or now,
  }), now)
end

-- A node does not hold the user any more. Without any node the grace begins.
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
