-- Store a conversation again as an acknowledged change left it, if Valkey lost it or has an older state.
--
-- own ARGV  id · its fields and values in turn, as `row` returns them
-- Answer 1 if it was lost
local given = { id = arg(1), key = own(':' .. arg(1)) }
local fields, i = {}, 2
while arg(i) do
  given[arg(i)] = arg(i + 1)
  fields[#fields + 1] = arg(i)
  fields[#fields + 1] = arg(i + 1)
  i = i + 2
end
local names = keys_of_place(given)
if given.startedAs then
  names[#names + 1] = started_on(given.customerId, math.floor(given.createdAt / 86400000))
end
local c, more = find(arg(1))
more = more or undeclared(names)
if more then
  return more
end
if c and tonumber(c.seq or 0) >= tonumber(given.seq) then
  return 0
end

if c and c.state == 'waiting' then
  unqueue(c)
elseif c and c.state == 'active' then
  deactivate(c)
end
redis.call('DEL', given.key)
redis.call('HSET', given.key, unpack(fields))
-- `last` must not move back, because a number is given out once. Each message that is stored again counts its own bytes.
save(given, { last = math.max(tonumber(given.last), tonumber(c and c.last or 0)), bytes = c and c.bytes or '0',
  customerOnline = online(CUSTOMER .. given.customerId) })
if (given.agentId or '') ~= '' then
  save(given, { agentOnline = online(given.agentId) })
end

if given.state == 'closed' then
  redis.call('ZREM', open_of_customer(given), given.id)
  redis.call('ZADD', own('-closed'), given.closedAt, given.id)
  for _, kind in ipairs({ ':', '-messages:', '-sent:' }) do
    redis.call('EXPIRE', own(kind .. given.id), KEPT_S)
  end
  return 1
end
redis.call('ZADD', open_of_customer(given), given.createdAt, given.id)
if given.startedAs then
  local started = key(started_on(given.customerId, math.floor(given.createdAt / 86400000)))
  redis.call('HSET', started, given.startedAs, given.id)
  redis.call('EXPIRE', started, 2 * 86400)
end
if given.state == 'waiting' then
  redis.call('ZADD', queue_of(given.teamId), given.queuedAt, given.id)
  redis.call('ZADD', own('-waiting'), given.waitingSince, given.id)
  redis.call('INCRBY', own('-waited'), given.waitingSince)
  redis.call('SADD', own('-moved'), given.teamId)
  schedule('wait', given, tonumber(given.waitingSince) + WAIT)
  if given.customerOnline ~= '1' then
    schedule('gone', given, now + GONE)
  end
else
  redis.call('ZADD', own('-active'), given.acceptedAt, given.id)
  redis.call('ZADD', open_of(given.agentId), given.acceptedAt, given.id)
  schedule('idle', given, math.max(tonumber(given.lastAt) + WARN, now))
  if given.agentOnline ~= '1' then
    schedule('lost', given, now + LOST)
  end
end
return 1
