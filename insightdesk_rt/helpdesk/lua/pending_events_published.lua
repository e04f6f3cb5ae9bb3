-- Remove the records of events that the log has, per subject up to a seq. Idempotent; may come late.
--
-- KEYS  base
-- ARGV  subject, seq, …
local base = KEYS[1]
for i = 1, #ARGV, 2 do
  local list, upto = base .. '-untold:' .. ARGV[i], tonumber(ARGV[i + 1])
  while true do
    local head = redis.call('LINDEX', list, 0)
    if not head then
      redis.call('ZREM', base .. '-untold', ARGV[i])
      break
    end
    if tonumber(string.match(head, '^%d+')) > upto then
      break
    end
    redis.call('LPOP', list)
  end
end
return redis.status_reply('OK')
