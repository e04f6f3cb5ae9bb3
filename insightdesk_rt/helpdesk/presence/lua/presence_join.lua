-- A node holds connections of a user from now on. Idempotent.
--
-- own KEYS  the node's users · dead · the user's two
-- ARGV  userId · node incarnation · role · teamId · name
-- Answer {outcome, records of pending events}
--       outcome: 1 others see a change · 0 they see none · -1 the incarnation was declared dead: return as another one
local user, node, role = user_at(11, ARGV[1]), ARGV[2], ARGV[3]
if redis.call('ZSCORE', KEYS[10], node) then
  return { -1, {} }
end
local now = now_ms()
local status, was, chosen = unpack(redis.call('HMGET', user.hash, 'status', 'role', 'chosen'))
if redis.call('HSETNX', user.hash, '@' .. node, '1') == 1 then
  redis.call('HINCRBY', user.hash, 'held', 1)
  redis.call('SADD', KEYS[9], user.id)
  redis.call('SADD', NODES, node)
end
redis.call('HSET', user.hash, 'role', role, 'teamId', ARGV[4], 'name', ARGV[5], 'lastSeen', string.format('%.0f', now))
redis.call('ZREM', GRACE, user.id)
if status and status ~= 'offline' then
  if was ~= role then
    count(user, role, status, status, now)
  end
  enlist(user)
  return { 0, {} }
end
set_status(user, chosen or 'online', now)
return { 1, pending_events(user.list) }
