-- Mark notifications as read (after pending_events.lua). The unread count is the size of a set, so it cannot drift.
--
-- KEYS  the user's items · order · unread · hash · list of pending events · index of pending events
--       · unseen
-- ARGV  userId · sid of the socket that asks · ids, or none for all
-- Answer {unread, how many of the ids exist, records of the user's pending events}
local items, _, unread, key, list, index, unseen = unpack(KEYS)
local user = ARGV[1]
local there, read = 0, {}
if #ARGV == 2 then
  read = redis.call('ZRANGE', unread, 0, -1)
  there = #read
  redis.call('DEL', unread)
else
  for i = 3, #ARGV do
    there = there + redis.call('HEXISTS', items, ARGV[i])
    if redis.call('ZREM', unread, ARGV[i]) == 1 then
      read[#read + 1] = ARGV[i]
    end
  end
end
if #read > 0 then
  for _, id in ipairs(read) do
    redis.call('ZREM', unseen, user .. '\n' .. id)
  end
  add_pending_event(index, list, key, user, 'read', cjson.encode({ ids = read, sid = ARGV[2] }), now_ms())
end
return { redis.call('ZCARD', unread), there, pending_events(list) }
