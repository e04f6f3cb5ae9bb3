-- Take users offline whose grace period has ended. The first caller gets them; no user is returned twice.
--
-- KEYS  base
-- ARGV  limit
-- Answer {userId, records}…
local now, found = now_ms(), {}
for _, user in ipairs(redis.call('ZRANGEBYSCORE', base .. '-grace', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  redis.call('ZREM', base .. '-grace', user)
  local status, held = unpack(redis.call('HMGET', user_key(user), 'status', 'held'))
  if status and status ~= 'offline' and tonumber(held or 0) <= 0 then
    set_status(user, 'offline', now)
    found[#found + 1] = { user, pending_events(base, user) }
  end
end
redis.call('ZREMRANGEBYSCORE', base .. '-agents:offline', '-inf', now - STAFF_S * 1000)
return found
