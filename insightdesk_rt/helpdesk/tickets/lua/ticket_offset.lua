-- Store the offsets of tickets' last published events, which the answer to a change without effect contains.
--
-- KEYS  for each event: the ticket
-- ARGV  for each event: seq of the published event · its offset
local function store(key, seq, offset)
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

for i, key in ipairs(KEYS) do
  store(key, ARGV[2 * i - 1], ARGV[2 * i])
end
return redis.status_reply('OK')
