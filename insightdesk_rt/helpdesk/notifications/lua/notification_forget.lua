-- Delete all notifications of a user. What is pending stays until it is published.
--
-- KEYS  the user's items · order · unread · hash · list of pending events · index of pending events
--       · unseen
-- ARGV  userId
-- Answer: how many there were
local items, order, unread, key, _, _, unseen = unpack(KEYS)
local ids = redis.call('HKEYS', items)
for _, id in ipairs(ids) do
  redis.call('ZREM', unseen, ARGV[1] .. '\n' .. id)
end
redis.call('DEL', items, order, unread, key)
return #ids
