-- Store a notification for a user, once per id (after pending_events.lua).
--
-- <base>:<userId>         hash: seq of the user's last event
-- <base>-items:<userId>   hash: id → "<ms> <json>"
-- <base>-order:<userId>   zset: ids, oldest first
-- <base>-unread:<userId>  zset: unread ids
-- <base>-unseen           zset: <userId>, newline, id → when the back end is told that it is unread, in ms
--
-- KEYS  the user's items · order · unread · hash · list of pending events · index of pending events
--       · unseen
-- ARGV  userId · id · json · most notifications of a user · seconds until they expire · `once` of its event
--       · ms after which the back end is told that it is unread, 0: never
-- Answer {JSON of another notification that has this id, or "", records of the user's pending events}
local items, order, unread, key, list, index, unseen = unpack(KEYS)
local user, id, item, most, kept_s = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]

local first = redis.call('HGET', items, id)
if first then
  first = string.sub(first, string.find(first, ' ') + 1)
  return { first == item and '' or first, pending_events(list) }
end

local now = now_ms()
-- Two in one millisecond keep their order.
local last = redis.call('ZRANGE', order, -1, -1, 'WITHSCORES')
local place = string.format('%.0f', last[2] and math.max(now, tonumber(last[2]) + 1) or now)
local kept = string.format('%.0f ', now) .. item
redis.call('HSET', items, id, kept)
redis.call('ZADD', order, place, id)
redis.call('ZADD', unread, place, id)
add_pending_event(index, list, key, user, 'notification', kept, now, ARGV[6])
if tonumber(ARGV[7]) > 0 then
  redis.call('ZADD', unseen, now + ARGV[7], user .. '\n' .. id)
end

local excess = redis.call('ZCARD', order) - most
if excess > 0 then
  local popped = redis.call('ZPOPMIN', order, excess)
  for i = 1, #popped, 2 do
    redis.call('HDEL', items, popped[i])
    redis.call('ZREM', unread, popped[i])
  end
end
for _, each in ipairs({ key, items, order, unread }) do
  redis.call('EXPIRE', each, kept_s)
end
return { '', pending_events(list) }
