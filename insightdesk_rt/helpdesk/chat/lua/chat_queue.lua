-- What waits for who asks: an agent's team and what has no team; for an admin everything.
--
-- own ARGV  at most so many of each queue
local ids, found = {}, {}
if who.role == 'admin' then
  ids[1] = redis.call('ZRANGE', base .. '-waiting', 0, arg(1) - 1)
else
  ids[1] = redis.call('ZRANGE', base .. '-queue:', 0, arg(1) - 1)
  ids[2] = who.team ~= '' and redis.call('ZRANGE', base .. '-queue:' .. who.team, 0, arg(1) - 1) or {}
end
for _, those in ipairs(ids) do
  for _, id in ipairs(those) do
    found[#found + 1] = row(load(id))
  end
end
return found
