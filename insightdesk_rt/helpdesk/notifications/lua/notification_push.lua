-- Keep a notification for a user, once per id (after pending_events.lua).
--
-- <base>:<userId>         hash: seq of what is told to the user
-- <base>-items:<userId>   hash: id → "<ms> <json>"
-- <base>-order:<userId>   zset: ids, the oldest first
-- <base>-unread:<userId>  zset: those of them that are unread
--
-- KEYS  base
-- ARGV  userId · id · json · how many a user may have · seconds they are kept · its event's `once`
-- Answer {json of the one that has this id if it is another text, or "", records still to be told to the user}
local base = KEYS[1]
local user, id, item, most, kept_s = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local key, items = base .. ':' .. user, base .. '-items:' .. user
local order, unread = base .. '-order:' .. user, base .. '-unread:' .. user

local first = redis.call('HGET', items, id)
if first then
  first = string.sub(first, string.find(first, ' ') + 1)
  return { first == item and '' or first, pending_events(base, user) }
end

local now = now_ms()
-- Two in one millisecond keep the order they came in.
local last = redis.call('ZRANGE', order, -1, -1, 'WITHSCORES')
local place = string.format('%.0f', last[2] and math.max(now, tonumber(last[2]) + 1) or now)
local kept = string.format('%.0f ', now) .. item
redis.call('HSET', items, id, kept)
redis.call('ZADD', order, place, id)
redis.call('ZADD', unread, place, id)
add_pending_event(base, user, key, 'notification', kept, now, ARGV[6])

local over = redis.call('ZCARD', order) - most
if over > 0 then
  local popped = redis.call('ZPOPMIN', order, over)
  for i = 1, #popped, 2 do
    redis.call('HDEL', items, popped[i])
    redis.call('ZREM', unread, popped[i])
  end
end
for _, each in ipairs({ key, items, order, unread }) do
  redis.call('EXPIRE', each, kept_s)
end
return { '', pending_events(base, user) }
