-- Return the subjects whose events have waited too long: the node that should publish them died or could not.
--
-- KEYS  base
-- ARGV  age in ms · at most so many subjects
-- Answer {subject, records}…
local base = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
for _, subject in ipairs(redis.call('ZRANGEBYSCORE', base .. '-untold', '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])) do
  found[#found + 1] = { subject, redis.call('LRANGE', base .. '-untold:' .. subject, 0, -1) }
end
return found
