-- A customer starts a conversation. A repeat under the same clientId finds the first one; another request under the same
-- clientId is a conflict.
--
-- own ARGV  id · clientId · subject · teamId · preview · body of the first message or "" · most open conversations of a customer
--           · digest of the request · id to use if the first one is taken
--           · most bytes of a customer in a day · "backend" if a back end starts it for the customer, or ""
--
-- The answer also has: number of connected agents who could take it
--
-- The id is made of customer and clientId, so that a repeat makes no second conversation even if Valkey lost the first
-- call. The id is taken already if the clientId was used more than a day ago.
local client_id, team = arg(2), arg(4)
local day = math.floor(now / 86400000)
local today, yesterday = started_on(who.id, day), started_on(who.id, day - 1) -- only customers start one
local more = undeclared({ today, yesterday })
if more then
  return more
end
today, yesterday = key(today), key(yesterday)
local known = redis.call('HGET', today, client_id) or redis.call('HGET', yesterday, client_id)
more = known and undeclared({ base .. ':' .. known, base .. '-untold:' .. known })
if more then
  return more
end
local c
if known then
  c, more = find(known)
  if more then
    return more
  end
end
if c then
  if c.asked and c.asked ~= arg(8) then
    return conflict({}, 'used')
  end
  return answer(c, agents_here(c.teamId))
end
if redis.call('ZCARD', open_of(who.key)) >= tonumber(arg(7)) then
  return conflict({}, 'many')
end
local CONVERSATION = 1000 -- bytes: overhead of a conversation besides its texts, with its entries in lists
local texts = #arg(3) + #arg(5) + #arg(6) + #who.name + 2 * #client_id
local refused = spend(CONVERSATION + texts, tonumber(arg(10)))
if refused then
  return refused
end
local id = redis.call('EXISTS', own(':' .. arg(1))) == 1 and arg(9) or arg(1)
redis.call('HSET', today, client_id, id)
redis.call('EXPIRE', today, 2 * 86400)
redis.call('ZADD', open_of(who.key), now, id)
-- Two conversations that start in the same millisecond have an order too.
local behind = redis.call('ZREVRANGE', queue_of(team), 0, 0, 'WITHSCORES')[2]
c = { id = id, key = own(':' .. id) }
save(c, {
  customerId = who.id, customerName = who.name, customerOnline = online(who.key), teamId = team, subject = arg(3),
  preview = arg(5), asked = arg(8), startedAs = client_id, createdAt = now, queuedAt = math.max(now, (behind or 0) + 1), last = '0',
  via = arg(11), -- a customer who writes by e-mail is not gone
})
report(c, 'started', { customerName = who.name, subject = c.subject, preview = c.preview }, id)
enqueue(c)
if arg(6) ~= '' then
  store_message(c, client_id, arg(6), true)
end
save(c, { position = position(c) })
return answer(c, agents_here(c.teamId))
