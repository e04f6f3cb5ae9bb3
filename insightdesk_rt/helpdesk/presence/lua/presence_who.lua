-- Return what is stored of users.
--
-- KEYS  the users' hashes
-- Answer {status, lastSeen, role, teamId, name}… in their order, each or nil
local found = {}
for i, hash in ipairs(KEYS) do
  found[i] = redis.call('HMGET', hash, 'status', 'lastSeen', 'role', 'teamId', 'name')
end
return found
