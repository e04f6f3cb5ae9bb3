-- One queue in which places have changed: who has another place than they were told is to be told.
--
-- Not with `report`: one who leaves a queue of hundreds would be hundreds of entries of the log. Who misses one is told the
-- next, and the place at each connect.
-- own ARGV  at most so many places, counted from the front
-- Answer {queues left, {id, customerId, place}…}
local team = redis.call('SPOP', base .. '-moved')
if not team then
  return { 0, {} }
end
local found = {}
for place, id in ipairs(redis.call('ZRANGE', base .. '-queue:' .. team, 0, arg(1) - 1)) do
  local key = base .. ':' .. id
  local told, customer = unpack(redis.call('HMGET', key, 'position', 'customerId'))
  if customer and tonumber(told or 0) ~= place then
    redis.call('HSET', key, 'position', place)
    found[#found + 1] = { id, customer, place }
  end
end
return { redis.call('SCARD', base .. '-moved'), found }
