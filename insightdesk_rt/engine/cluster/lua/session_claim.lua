-- Claim a session for another connection. Only its user may, in its namespace. The connection that had it loses it, but
-- the record's content stays: a client that disconnects again before its connect is complete finds the record as it was.
--
-- KEYS: record
-- ARGV: namespace, user, owner, address, ms to keep
-- Returns {sid, rooms, start, from, quiet, role, team, address of the connection that had it, '1' if the end of that
-- connection was noted, starts of rooms, set of its node that lists it or ''} or nil.
local record = redis.call('HMGET', KEYS[1], 'namespace', 'user', 'sid', 'rooms', 'start', 'from', 'quiet', 'role', 'team',
  'address', 'ended', 'starts', 'index')
if record[1] ~= ARGV[1] or record[2] ~= ARGV[2] then
  return nil -- another user's attempt must not cost the owner the session
end
redis.call('HDEL', KEYS[1], 'ended', 'index')
redis.call('HSET', KEYS[1], 'owner', ARGV[3], 'address', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {record[3], record[4], record[5], record[6], record[7], record[8] or '', record[9] or '', record[10],
  record[11] or '', record[12] or '', record[13] or ''}
