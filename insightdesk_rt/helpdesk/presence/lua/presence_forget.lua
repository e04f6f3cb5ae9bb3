-- Delete what is kept of a user, who is offline from now on (after pending_events.lua and presence_lib.lua). The event for
-- those who watch the user stays until it is published.
--
-- own KEYS  the user's two · of each incarnation that holds connections of the user: its users
-- ARGV  userId · these incarnations, in the same order
-- Answer {1 if there was anything, records of the user's pending events}
local user, now = user_at(9, ARGV[1]), now_ms()
local known = redis.call('EXISTS', user.hash)
for i = 2, #ARGV do
  drop(user, ARGV[i], KEYS[9 + i], now, 0)
end
local status = redis.call('HGET', user.hash, 'status')
if status and status ~= 'offline' then
  set_status(user, 'offline', now)
end
redis.call('ZREM', GRACE, user.id)
redis.call('ZREM', AGENTS.offline, user.id)
redis.call('DEL', user.hash)
return { known, pending_events(user.list) }
