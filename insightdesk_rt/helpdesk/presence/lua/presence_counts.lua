-- Return the numbers of agents and admins by status.
--
-- KEYS  agents: online · busy · away · offline
-- Answer {online, busy, away, offline}
local found = {}
for i, agents in ipairs(KEYS) do
  found[i] = redis.call('ZCARD', agents)
end
return found
