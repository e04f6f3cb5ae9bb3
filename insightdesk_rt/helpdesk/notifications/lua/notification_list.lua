-- Return one page of a user's notifications, newest first.
--
-- KEYS  the user's items · order · unread (notification_push.lua)
-- ARGV  id of the last one on the page before ("" for the first page) · limit · limit in bytes
-- Answer {unread, 1 if there are more, {item, 1 if unread}…}: at least one item, whatever its size. After an id that is
-- not stored any more the page is empty.
local items, order, unread = KEYS[1], KEYS[2], KEYS[3]
local before, limit, left = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local SHOWN = 80 -- bytes that an item gains in the answer: its time, and whether it was read
local from = 0
if before ~= '' then
  local rank = redis.call('ZREVRANK', order, before)
  if not rank then
    return { redis.call('ZCARD', unread), 0, {} }
  end
  from = rank + 1
end
local ids = redis.call('ZREVRANGE', order, from, from + limit)
local more = #ids > limit and 1 or 0
if more == 1 then
  ids[#ids] = nil
end
local page = {}
for i, id in ipairs(ids) do
  local item = redis.call('HGET', items, id)
  left = left - #item - SHOWN
  if i > 1 and left < 0 then
    more = 1
    break
  end
  page[i] = { item, redis.call('ZSCORE', unread, id) and 1 or 0 }
end
return { redis.call('ZCARD', unread), more, page }
