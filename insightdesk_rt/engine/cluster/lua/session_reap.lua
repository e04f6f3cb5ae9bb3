-- The sessions of a dead node may be resumed for as long as any other: its clients are on their way back.
-- KEYS: index of the node. ARGV: prefix of records, ms to keep, how many at most
-- Returns how many are left.
for _, pid in ipairs(redis.call('SPOP', KEYS[1], ARGV[3])) do
  local record = ARGV[1] .. pid
  if redis.call('HGET', record, 'index') == KEYS[1] then
    redis.call('PEXPIRE', record, ARGV[2])
  end
end
return redis.call('SCARD', KEYS[1])
