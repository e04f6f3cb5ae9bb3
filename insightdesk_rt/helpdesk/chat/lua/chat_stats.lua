-- Return the numbers of the queue.
--
-- KEYS  waiting · waited · active
-- Answer {waiting, longest wait in ms, average wait in ms, active}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local waiting = redis.call('ZCARD', KEYS[1])
local active = redis.call('ZCARD', KEYS[3])
if waiting == 0 then
  return { 0, 0, 0, active }
end
local longest = now - redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local average = now - redis.call('GET', KEYS[2]) / waiting
return { waiting, math.max(longest, 0), math.max(math.floor(average), 0), active }
