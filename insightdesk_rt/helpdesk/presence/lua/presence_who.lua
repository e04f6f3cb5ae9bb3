-- Return what is stored of users.
--
-- KEYS  base
-- ARGV  userIds
-- Answer {status, lastSeen, role, teamId, name}… in their order, each or nil
local base, found = KEYS[1], {}
for i, user in ipairs(ARGV) do
  found[i] = redis.call('HMGET', base .. ':' .. user, 'status', 'lastSeen', 'role', 'teamId', 'name')
end
return found
