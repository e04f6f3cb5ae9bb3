-- Change fields of a webhook: what an admin asks for, or how far its delivery has come.
--
-- KEYS  webhook (hash, see store.py)
-- ARGV  change by which the caller knows it, or "" for any · cursor that the caller knows, or "" for any
--       · 1 to begin another change, which ends its delivery as it is now, else 0
--       · names of numbers to increase by one, with commas between them · fields and values in turn
-- Answer 1 done · 0 it has changed in the meantime · -1 there is no such webhook
local change, cursor = unpack(redis.call('HMGET', KEYS[1], 'change', 'cursor'))
if not change then
  return -1
end
if (ARGV[1] ~= '' and ARGV[1] ~= change) or (ARGV[2] ~= '' and ARGV[2] ~= cursor) then
  return 0
end
if ARGV[3] == '1' then
  redis.call('HINCRBY', KEYS[1], 'change', 1)
end
for name in string.gmatch(ARGV[4], '[^,]+') do
  redis.call('HINCRBY', KEYS[1], name, 1)
end
if #ARGV > 4 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 5))
end
return 1
