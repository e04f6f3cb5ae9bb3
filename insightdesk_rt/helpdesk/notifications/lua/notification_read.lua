-- Mark as read (after pending_events.lua); the count is how many are in the set of unread ones, so it cannot be wrong.
--
-- KEYS  base
-- ARGV  userId · sid of the socket that asks · ids, or none for all
-- Answer {unread, how many of the ids there are, records still to be told to the user}
local base, user = KEYS[1], ARGV[1]
local items, unread = base .. '-items:' .. user, base .. '-unread:' .. user
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
  add_pending_event(base, user, base .. ':' .. user, 'read', cjson.encode({ ids = read, sid = ARGV[2] }), now_ms())
end
return { redis.call('ZCARD', unread), there, pending_events(base, user) }
