-- A customer starts a conversation. The same clientId again finds the first one.
--
-- own ARGV  id · clientId · subject · teamId · preview · body of the first message or "" · most open ones of a customer
local client_id, team = arg(2), arg(4)
local started = base .. '-started:' .. who.id
local known = redis.call('HGET', started, client_id)
local c = known and load(known)
if c then
  return answer(c)
end
if redis.call('ZCARD', base .. '-open:' .. who.id) >= tonumber(arg(7)) then
  return conflict({}, 'many')
end
redis.call('HSET', started, client_id, arg(1))
redis.call('EXPIRE', started, 86400)
redis.call('ZADD', base .. '-open:' .. who.id, now, arg(1))
-- Two in one millisecond have a first and a second too.
local behind = redis.call('ZREVRANGE', base .. '-queue:' .. team, 0, 0, 'WITHSCORES')[2]
c = { id = arg(1), key = base .. ':' .. arg(1) }
save(c, {
  customerId = who.id, customerName = who.name, customerOnline = online(who.id), teamId = team, subject = arg(3),
  preview = arg(5), createdAt = now, queuedAt = math.max(now, (behind or 0) + 1), last = '0',
})
report(c, 'started', { customerName = who.name, subject = c.subject })
enqueue(c)
if arg(6) ~= '' then
  say(c, client_id, arg(6))
end
save(c, { position = position(c) })
return answer(c)
