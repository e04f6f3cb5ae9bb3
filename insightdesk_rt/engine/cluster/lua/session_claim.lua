-- Take a session over: only the user whose it is, in its namespace. Whoever had it has lost it, but the record stays:
-- a client that goes again before it is let in finds it as it was, for as long as any other.
-- KEYS: record. ARGV: namespace, user, owner, address, ms to keep
-- Returns {sid, rooms, start, from, quiet, role, team, address of who had it, '1' if that one's end was noted, starts of
-- rooms} or nil.
local record = redis.call('HMGET', KEYS[1], 'namespace', 'user', 'sid', 'rooms', 'start', 'from', 'quiet', 'role', 'team', 'address', 'ended', 'index', 'pid', 'starts')
if record[1] ~= ARGV[1] or record[2] ~= ARGV[2] then
  return nil -- a stranger's try must not cost the owner the session
end
if record[12] then
  redis.call('SREM', record[12], record[13])
end
redis.call('HDEL', KEYS[1], 'ended', 'index')
redis.call('HSET', KEYS[1], 'owner', ARGV[3], 'address', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {record[3], record[4], record[5], record[6], record[7], record[8] or '', record[9] or '', record[10], record[11] or '', record[14] or ''}
