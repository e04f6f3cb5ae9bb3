-- Store an acknowledged notification again if Valkey lost it. A stored one stays as it is.
--
-- KEYS  the user's items · order · unread (notification_push.lua)
-- ARGV  id · "<ms> <json>" · ms · most notifications of a user · seconds until they expire
-- Answer 1 if it was lost
local items, order, unread, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
if redis.call('HSETNX', items, id, ARGV[2]) == 0 then
  return 0
end
redis.call('ZADD', order, ARGV[3], id)
redis.call('ZADD', unread, ARGV[3], id)
local excess = redis.call('ZCARD', order) - tonumber(ARGV[4])
if excess > 0 then
  local popped = redis.call('ZPOPMIN', order, excess)
  for i = 1, #popped, 2 do
    redis.call('HDEL', items, popped[i])
    redis.call('ZREM', unread, popped[i])
  end
end
for _, each in ipairs(KEYS) do
  redis.call('EXPIRE', each, ARGV[5])
end
return 1
