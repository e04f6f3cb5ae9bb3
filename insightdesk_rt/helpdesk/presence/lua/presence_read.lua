-- Return how others see users.
--
-- KEYS  the users' hashes
-- Answer {status or nil, lastSeen or nil}… in their order
local found = {}
for i, hash in ipairs(KEYS) do
  found[i] = redis.call('HMGET', hash, 'status', 'lastSeen')
end
return found
