-- Return waiting conversations: for an agent those of the team and those without a team, for an admin all.
--
-- own ARGV  limit per queue
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
