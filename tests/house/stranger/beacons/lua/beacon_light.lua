-- Light a beacon of an agent on a node.
--
-- KEYS  hash of all beacons: "<incarnation>/<userId>/<beaconId>" -> "1"
-- ARGV  incarnation · userId · beaconId · how many the agent may have
-- Answer: how many the agent has lit now, or -1 if it has as many as it may
local base = ARGV[1] .. '/' .. ARGV[2] .. '/'
local lit = 0
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, #base) == base then
    lit = lit + 1
  end
end
if redis.call('HEXISTS', KEYS[1], base .. ARGV[3]) == 1 then
  return lit
end
if lit >= tonumber(ARGV[4]) then
  return -1
end
redis.call('HSET', KEYS[1], base .. ARGV[3], '1')
return lit + 1
