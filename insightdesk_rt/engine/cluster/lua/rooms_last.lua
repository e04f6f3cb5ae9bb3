-- Return the end of a log, and the offset of the last event in some rooms.
--
-- KEYS: the log's state (hash: top), then per room: its ids (list, newest first)
-- Returns {last id of the log or '', the newest id of these rooms or ''}.
local newest
for n = 2, #KEYS do
  local last = redis.call('LINDEX', KEYS[n], 0)
  if last and (not newest or after(last, newest)) then
    newest = last
  end
end
return { redis.call('HGET', KEYS[1], 'top') or '', newest or '' }
