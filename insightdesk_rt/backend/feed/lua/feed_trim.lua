-- Remove entries of the feed that are too old.
--
-- KEYS  log · state · marks, as in feed_append.lua
-- ARGV  age in ms from which an entry is too old
-- Answer 1 if entries were removed
local log, state, marks = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local oldest = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[1])
local last = redis.call('XREVRANGE', log, '(' .. oldest .. '-0', '-', 'COUNT', 1)[1]
if not last then
  return 0
end
local floor = last[1]
local ms, seq = string.match(floor, '^(%d+)-(%d+)$')
redis.call('XTRIM', log, 'MINID', string.format('%s-%.0f', ms, seq + 1))
redis.call('HSET', state, 'floor', floor)
while true do
  local mark = redis.call('LINDEX', marks, 0)
  if not mark then
    break
  end
  local mark_ms, mark_seq = string.match(mark, '^(%d+)-(%d+)$')
  if tonumber(mark_ms) > tonumber(ms) or (mark_ms == ms and tonumber(mark_seq) > tonumber(seq)) then
    break
  end
  redis.call('LPOP', marks)
end
return 1
