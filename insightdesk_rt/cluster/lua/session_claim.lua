-- Take a session: exactly one gets it, and only the user whose it is, in its namespace.
-- KEYS: record. ARGV: namespace, user
-- Returns {sid, rooms, start, from, quiet, address, ended} or nil.
local record = redis.call('HMGET', KEYS[1], 'namespace', 'user', 'sid', 'rooms', 'start', 'from', 'quiet', 'address', 'ended', 'index', 'pid')
if record[1] ~= ARGV[1] or record[2] ~= ARGV[2] then
  return nil -- a stranger's try must not cost the owner the session
end
redis.call('DEL', KEYS[1])
redis.call('SREM', record[10], record[11])
return {record[3], record[4], record[5], record[6], record[7], record[8], record[9] or ''}
