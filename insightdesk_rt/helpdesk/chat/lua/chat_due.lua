-- Act on the deadlines that have passed.
--
-- wait   no agent took the conversation                  → closed, "timeout"
-- gone   its customer left while it waited               → closed, "abandoned"
-- lost   its agent left and did not come back            → waits again, in its old place
-- idle   no new message: first the members are warned, then → closed, "idle". Messages do not move this deadline; when it
--        passes, the script looks at the last message and sets the next deadline.
-- own ARGV  limit
-- Answer {id, records}…
local IDLE = tonumber(ARGV[7])
local due = {
  wait = function(c)
    if c.state == 'waiting' then
      close(c, 'timeout')
    end
  end,
  gone = function(c)
    if c.state == 'waiting' and online(CUSTOMER .. c.customerId) ~= '1' then
      close(c, 'abandoned')
    end
  end,
  lost = function(c)
    if c.state == 'active' and online(c.agentId) ~= '1' then
      local from, from_name = c.agentId, c.agentName
      deactivate(c)
      enqueue(c)
      report(c, 'transferred', { fromId = from, fromName = from_name, note = '', state = c.state })
    end
  end,
  idle = function(c)
    if c.state ~= 'active' then
      return
    end
    local last = tonumber(c.lastAt)
    if last + IDLE <= now then
      close(c, 'idle')
    elseif c.warned == '1' then
      schedule('idle', c, last + IDLE)
    elseif last + WARN <= now then
      save(c, { warned = '1' })
      schedule('idle', c, last + IDLE)
      report(c, 'warned', { closesAt = last + IDLE })
    else
      schedule('idle', c, last + WARN)
    end
  end,
}
local found = {}
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', base .. '-deadlines', '-inf', now, 'LIMIT', 0, arg(1))) do
  redis.call('ZREM', base .. '-deadlines', entry)
  local kind, id = string.match(entry, '^(%l+):(.+)$')
  local c = load(id)
  if c and due[kind] then
    due[kind](c)
    found[#found + 1] = { id, pending_events(base, id) }
  end
end
return found
