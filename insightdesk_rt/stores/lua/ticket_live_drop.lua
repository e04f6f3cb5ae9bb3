-- Take off what a node has put down on some tickets: the node is gone. Safe to run again after dying half-way, since
-- the tickets stay in the node's set until the caller has told their watchers.
--
-- KEYS  hashes of who is there, one per ticket
-- ARGV  "<node>/"
-- Answer: per ticket, the users whose typing was taken off
local dropped = {}
for i, key in ipairs(KEYS) do
  local typists = {}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, #ARGV[1]) == ARGV[1] then
      redis.call('HDEL', key, field)
      typists[#typists + 1] = string.match(field, '/t/(.*)$')
    end
  end
  dropped[i] = typists
end
return dropped
