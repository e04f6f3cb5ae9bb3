-- Remove the records of events that the log has, per subject up to a seq. Idempotent; may come late.
--
-- KEYS  index of pending events, then per subject: its list of records
-- ARGV  per subject: its name · seq
for n = 2, #KEYS do
  local list, subject, upto = KEYS[n], ARGV[2 * n - 3], tonumber(ARGV[2 * n - 2])
  while true do
    local head = redis.call('LINDEX', list, 0)
    if not head then
      redis.call('ZREM', KEYS[1], subject)
      break
    end
    if tonumber(string.match(head, '^%d+')) > upto then
      break
    end
    redis.call('LPOP', list)
  end
end
return redis.status_reply('OK')
