-- Take users offline whose grace period has ended. The first caller gets them; no user is returned twice.
--
-- Since the caller read the list (presence_absent.lua), a user may have come back, or come back and left again.
-- own KEYS  per user: the two
-- ARGV  userIds
-- Answer {userId, records}…
local now, found = now_ms(), {}
for i, id in ipairs(ARGV) do
  local ends = redis.call('ZSCORE', GRACE, id)
  if ends and tonumber(ends) <= now then
    redis.call('ZREM', GRACE, id)
    local user = user_at(7 + 2 * i, id)
    local status, held = unpack(redis.call('HMGET', user.hash, 'status', 'held'))
    if status and status ~= 'offline' and tonumber(held or 0) <= 0 then
      set_status(user, 'offline', now)
      found[#found + 1] = { id, pending_events(user.list) }
    end
  end
end
return found
