-- The client is gone: keep its record for as long as it may come back, or not at all.
-- KEYS: record, index of its node. ARGV: owner, pid, ms to keep (0: it ended on purpose), rooms, their starts
redis.call('SREM', KEYS[2], ARGV[2])
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0 -- it came back already, perhaps elsewhere
end
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'rooms', ARGV[4], 'starts', ARGV[5] or '', 'ended', '1')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
