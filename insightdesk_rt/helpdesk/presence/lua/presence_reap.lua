-- Remove users from an incarnation that was declared dead (presence_dead.lua).
--
-- Any node calls it until it answers 0, also after another reaper died on the way: the users who are left are still in
-- the incarnation's set.
-- own KEYS  the node's users · per user: the two
-- ARGV  incarnation · grace period in ms · userIds
-- Answer how many users are left
local node, now = ARGV[1], now_ms()
for i = 3, #ARGV do
  drop(user_at(4 + 2 * i, ARGV[i]), node, KEYS[9], now, tonumber(ARGV[2]))
end
return redis.call('SCARD', KEYS[9])
