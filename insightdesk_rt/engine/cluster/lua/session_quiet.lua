-- Note up to where a session's rooms had no event, and keep the record for longer. An old offset is then as good as a
-- newer one, and if the log between the two is trimmed, nothing is lost.
--
-- The fields mean: between `from` and `quiet` these rooms had no event.
-- KEYS: record
-- ARGV: owner, safety ttl in ms, end of the log ('': leave the fields as they are), the newest event of the rooms up to
--       that end ('': none that is remembered)
-- Returns 1; 0 if the session belongs to another connection.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local top, newest = ARGV[3], ARGV[4]
local from, quiet = unpack(redis.call('HMGET', KEYS[1], 'from', 'quiet'))
if top == '' or not after(top, quiet) then
  return 1
end
if newest ~= '' and after(newest, quiet) and after(newest, from) then
  from = newest
end
redis.call('HSET', KEYS[1], 'from', from, 'quiet', top)
return 1
