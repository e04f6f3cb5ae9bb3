-- What was to be told of some subjects was told, each up to a seq. Saying so twice, or late, changes nothing.
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
