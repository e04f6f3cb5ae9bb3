-- Library of the presence scripts (after pending_events.lua): the keys, and the changes that all scripts share.
--
-- <base>:<userId>       hash: status, lastSeen (ms), chosen, role, teamId, name, seq; "@<incarnation>" for each node that
--                       holds connections of the user, and how many those are: held
-- <base>-node:<inc>     set of the users an incarnation holds, for reaping
-- <base>-nodes          set of the incarnations that hold anybody
-- <base>-grace          zset: users without a connection → when they count as offline
-- <base>-dead           zset: incarnations that were declared dead → when; they cannot hold anybody any more
-- <base>-agents:<status> zset: agents and admins by status → since when
-- <base>-crew           hash: teamId → how many of its agents and admins are not offline. `crew` in the user's hash is
--                       "=<teamId>" for a user who is counted there
--
-- Nodes decide whether a user is online; the user chooses busy or away. Neither changes the other.
--
-- KEYS  nodes · grace · crew · index of pending events · agents: online · busy · away · offline
--       · then each script's own, and per user: hash · list of pending events
local NODES, GRACE, CREW, INDEX = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local AGENTS = { online = KEYS[5], busy = KEYS[6], away = KEYS[7], offline = KEYS[8] }
local STAFF = { agent = true, admin = true }
-- How long an absent user is stored: an agent through a holiday, a customer for a day.
local STAFF_S, OTHERS_S = 30 * 86400, 86400

-- Return a user whose keys begin at this number.
local function user_at(n, id)
  return { id = id, hash = KEYS[n], list = KEYS[n + 1] }
end

-- Count the user under this status, if it is staff, and no longer under the other one.
local function count(user, role, was, status, now)
  if was then
    redis.call('ZREM', AGENTS[was], user.id)
  end
  if STAFF[role] then
    redis.call('ZADD', AGENTS[status], now, user.id)
  end
end

-- Count the user in their team's connected staff, and in no other team. Idempotent.
local function enlist(user)
  local status, role, team, crew = unpack(redis.call('HMGET', user.hash, 'status', 'role', 'teamId', 'crew'))
  local wanted = status and status ~= 'offline' and STAFF[role] and '=' .. (team or '') or nil
  if (crew or nil) == wanted then
    return
  end
  if crew then
    local was = string.sub(crew, 2)
    if redis.call('HINCRBY', CREW, was, -1) <= 0 then
      redis.call('HDEL', CREW, was)
    end
    redis.call('HDEL', user.hash, 'crew')
  end
  if wanted then
    redis.call('HINCRBY', CREW, team, 1)
    redis.call('HSET', user.hash, 'crew', wanted)
  end
end

-- Change the user's status: store it, count it, and add the pending event.
local function set_status(user, status, now)
  local was, role, team, seen = unpack(redis.call('HMGET', user.hash, 'status', 'role', 'teamId', 'lastSeen'))
  redis.call('HSET', user.hash, 'status', status)
  count(user, role, was, status, now)
  enlist(user)
  if status == 'offline' then
    redis.call('EXPIRE', user.hash, STAFF[role] and STAFF_S or OTHERS_S)
  else
    redis.call('PERSIST', user.hash)
  end
  add_pending_event(INDEX, user.list, user.hash, user.id, 'status', cjson.encode({
    userId = user.id, status = status, teamId = team or '', lastSeen = tonumber(seen) or now, was = was or 'offline',
  }), now)
end

-- A node does not hold the user any more. If no other node does, the grace period begins. `users`: the node's set.
local function drop(user, node, users, now, grace)
  if redis.call('SREM', users, user.id) == 1 and redis.call('EXISTS', users) == 0 then
    redis.call('SREM', NODES, node)
  end
  if redis.call('HDEL', user.hash, '@' .. node) == 0 then
    return 0
  end
  redis.call('HSET', user.hash, 'lastSeen', string.format('%.0f', now))
  if redis.call('HINCRBY', user.hash, 'held', -1) > 0 then
    return 0
  end
  redis.call('ZADD', GRACE, now + grace, user.id)
  return 1
end
