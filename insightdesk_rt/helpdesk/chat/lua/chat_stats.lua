-- Return the numbers of the queue.
--
-- KEYS  base
-- Answer {waiting, longest wait in ms, average wait in ms, active}
local base = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local waiting = redis.call('ZCARD', base .. '-waiting')
local active = redis.call('ZCARD', base .. '-active')
if waiting == 0 then
  return { 0, 0, 0, active }
end
local longest = now - redis.call('ZRANGE', base .. '-waiting', 0, 0, 'WITHSCORES')[2]
local average = now - redis.call('GET', base .. '-waited') / waiting
return { waiting, math.max(longest, 0), math.max(math.floor(average), 0), active }
