-- Return how others see users.
--
-- KEYS  base
-- ARGV  userIds
-- Answer {status or nil, lastSeen or nil}… in their order
local base, found = KEYS[1], {}
for i, user in ipairs(ARGV) do
  found[i] = redis.call('HMGET', base .. ':' .. user, 'status', 'lastSeen')
end
return found
