-- Take one queue in which places changed, and return the customers whose place is not the one published last.
--
-- Without `report`: a customer who leaves a queue of hundreds would add hundreds of entries to the log. A client that
-- misses a place gets the next one, and its place at each connect.
-- own ARGV  most places, from the front
-- Answer {queues left, {id, customerId, place}…}
local team = redis.call('SPOP', base .. '-moved')
if not team then
  return { 0, {} }
end
local found = {}
for place, id in ipairs(redis.call('ZRANGE', base .. '-queue:' .. team, 0, arg(1) - 1)) do
  local key = base .. ':' .. id
  local published, customer = unpack(redis.call('HMGET', key, 'position', 'customerId'))
  if customer and tonumber(published or 0) ~= place then
    redis.call('HSET', key, 'position', place)
    found[#found + 1] = { id, customer, place }
  end
end
return { redis.call('SCARD', base .. '-moved'), found }
