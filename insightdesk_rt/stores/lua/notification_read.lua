-- Mark as read; the count is how many are in the set of unread ones, so it cannot be wrong.
--
-- KEYS  base
-- ARGV  userId · ids, or none for all
-- Answer {unread, how many of the ids there are, ids that were unread until now}
local items, unread = KEYS[1] .. '-items:' .. ARGV[1], KEYS[1] .. '-unread:' .. ARGV[1]
if #ARGV == 1 then
  local all = redis.call('ZRANGE', unread, 0, -1)
  redis.call('DEL', unread)
  return { 0, #all, all }
end
local there, read = 0, {}
for i = 2, #ARGV do
  there = there + redis.call('HEXISTS', items, ARGV[i])
  if redis.call('ZREM', unread, ARGV[i]) == 1 then
    read[#read + 1] = ARGV[i]
  end
end
return { redis.call('ZCARD', unread), there, read }
