-- Store the offsets of tickets' last published events, which the answer to a change without effect contains.
--
-- KEYS  base
-- ARGV  for each event: ticketId · seq of the published event · its offset
local function store(id, seq, offset)
  local key = KEYS[1] .. ':' .. id
  if redis.call('EXISTS', key) == 1 and tonumber(seq) >= tonumber(redis.call('HGET', key, 'told') or 0) then
    redis.call('HSET', key, 'told', seq, 'offset', offset)
  end
  -- Grants that began with this change begin at its offset.
  local grants = redis.call('HGET', key, 'grants')
  if grants and string.find(grants, seq, 1, true) then
    local rights = cjson.decode(grants)
    for name, since in pairs(rights) do
      if string.match(since, '^%d+') == seq then
        rights[name] = seq .. ' ' .. offset
      end
    end
    redis.call('HSET', key, 'grants', cjson.encode(rights))
  end
end

for i = 1, #ARGV, 3 do
  store(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
return redis.status_reply('OK')
