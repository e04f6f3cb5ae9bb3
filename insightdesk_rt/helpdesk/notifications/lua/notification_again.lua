-- Store an acknowledged notification again if Valkey lost it. A stored one stays as it is.
--
-- KEYS  base
-- ARGV  userId · id · "<ms> <json>" · ms · most notifications of a user · seconds until they expire
-- Answer 1 if it was lost
local base, user, id = KEYS[1], ARGV[1], ARGV[2]
local items, order, unread = base .. '-items:' .. user, base .. '-order:' .. user, base .. '-unread:' .. user
if redis.call('HSETNX', items, id, ARGV[3]) == 0 then
  return 0
end
redis.call('ZADD', order, ARGV[4], id)
redis.call('ZADD', unread, ARGV[4], id)
local excess = redis.call('ZCARD', order) - tonumber(ARGV[5])
if excess > 0 then
  local popped = redis.call('ZPOPMIN', order, excess)
  for i = 1, #popped, 2 do
    redis.call('HDEL', items, popped[i])
    redis.call('ZREM', unread, popped[i])
  end
end
for _, each in ipairs({ items, order, unread }) do
  redis.call('EXPIRE', each, ARGV[6])
end
return 1
