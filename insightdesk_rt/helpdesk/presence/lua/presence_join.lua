-- A node holds connections of a user from now on. Idempotent.
--
-- KEYS  base
-- ARGV  userId · node incarnation · role · teamId · name
-- Answer {outcome, records of pending events}
--       outcome: 1 others see a change · 0 they see none · -1 the incarnation was declared dead: return as another one
local user, node, role = ARGV[1], ARGV[2], ARGV[3]
if redis.call('ZSCORE', base .. '-dead', node) then
  return { -1, {} }
end
local now, key = now_ms(), user_key(user)
local status, was, chosen = unpack(redis.call('HMGET', key, 'status', 'role', 'chosen'))
if redis.call('HSETNX', key, '@' .. node, '1') == 1 then
  redis.call('HINCRBY', key, 'held', 1)
  redis.call('SADD', base .. '-node:' .. node, user)
  redis.call('SADD', base .. '-nodes', node)
end
redis.call('HSET', key, 'role', role, 'teamId', ARGV[4], 'name', ARGV[5], 'lastSeen', string.format('%.0f', now))
redis.call('ZREM', base .. '-grace', user)
if status and status ~= 'offline' then
  if was ~= role then
    count(user, role, status, status, now)
  end
  enlist(user)
  return { 0, {} }
end
set_status(user, chosen or 'online', now)
return { 1, pending_events(base, user) }
