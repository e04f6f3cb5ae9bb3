-- One queue in which places have changed: who has another place than they were told is told.
--
-- own ARGV  at most so many places, counted from the front
-- Answer {queues left, {id, records}…}
local team = redis.call('SPOP', base .. '-moved')
if not team then
  return { 0, {} }
end
local found = {}
for place, id in ipairs(redis.call('ZRANGE', base .. '-queue:' .. team, 0, arg(1) - 1)) do
  local c = load(id)
  if tonumber(c.position or 0) ~= place then
    save(c, { position = place })
    report(c, 'place', { position = place })
    found[#found + 1] = { id, untold(base, id) }
  end
end
return { redis.call('SCARD', base .. '-moved'), found }
