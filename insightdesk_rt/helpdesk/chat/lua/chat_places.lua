-- Store the places of the first conversations in a queue, and return the customers whose place is not the one published
-- last. The caller read who is in the queue. A conversation that joined it since then is in a later call, because the
-- queue has changed again.
--
-- Without `report`: a customer who leaves a queue of hundreds would add hundreds of entries to the log. A client that
-- misses a place gets the next one, and its place at each connect.
-- own ARGV  teamId · ids
-- Answer {id, customerId, place}…
local found, queue = {}, queue_of(arg(1))
for i = 2, ARGS do
  local id = arg(i)
  local rank = redis.call('ZRANK', queue, id)
  if rank then
    local hash, place = own(':' .. id), rank + 1
    local published, customer = unpack(redis.call('HMGET', hash, 'position', 'customerId'))
    if customer and tonumber(published or 0) ~= place then
      redis.call('HSET', hash, 'position', place)
      found[#found + 1] = { id, customer, place }
    end
  end
end
return found
