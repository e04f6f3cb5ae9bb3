-- Note that nothing was said in a session's rooms: an old offset is then as good as a new one, and a log that is cut
-- off between the two is no loss. Called more often than a room's last offset is forgotten.
--
-- KEYS: record, tops, then per room: its ids (list, newest first). ARGV: owner, namespace, safety ttl ms
-- "Between `from` and `quiet` nothing was said in these rooms."
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
local function after(a, b)
  local am, as = a:match('^(%d+)-(%d+)$')
  local bm, bs = b:match('^(%d+)-(%d+)$')
  am, as, bm, bs = tonumber(am), tonumber(as), tonumber(bm), tonumber(bs)
  return am > bm or (am == bm and as > bs)
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local top = redis.call('HGET', KEYS[2], ARGV[2])
local from, quiet = unpack(redis.call('HMGET', KEYS[1], 'from', 'quiet'))
if not top or not after(top, quiet) then
  return 1
end
for n = 3, #KEYS do
  local last = redis.call('LINDEX', KEYS[n], 0)
  if last and after(last, quiet) and after(last, from) then
    from = last
  end
end
redis.call('HSET', KEYS[1], 'from', from, 'quiet', top)
return 1
