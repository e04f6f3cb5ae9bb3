-- Append an entry to the audit log, and remove the oldest entries that need not be kept.
-- KEYS 1 audit: stream of entries           2 audit-dropped: hash: early -> entries removed before they were old enough
-- ARGV 1 entry   2 minimum number to keep   3 how long to keep entries, ms   4 maximum number to keep
redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
local least, most = tonumber(ARGV[2]), tonumber(ARGV[4])
local count = redis.call('XLEN', KEYS[1])
if count <= least then return 0 end
local time = redis.call('TIME')
local from = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[3]
local early = 0
-- a few per call are enough, because each call adds only one
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 10)) do
  local old = tonumber(string.match(entry[1], '^%d+')) < from
  if count <= least or (not old and count <= most) then break end
  redis.call('XDEL', KEYS[1], entry[1])
  count = count - 1
  if not old then early = early + 1 end
end
if early > 0 then redis.call('HINCRBY', KEYS[2], 'early', early) end
return early
