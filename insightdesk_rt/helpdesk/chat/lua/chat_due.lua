-- Act on a deadline that has passed (passed.lua). It may have been moved or handled since it was read.
--
-- wait   no agent took the conversation                  → closed, "timeout"
-- gone   its customer left while it waited               → closed, "abandoned"
-- lost   its agent left and did not come back            → waits again, in its old place
-- idle   no new message: first the members are warned, then → closed, "idle". Messages do not move this deadline; when it
--        passes, the script looks at the last message and sets the next deadline.
-- own ARGV  id · kind
-- Answer records of pending events
local IDLE = tonumber(ARGV[9])
local c, more = find(arg(1))
if more then
  return more
end
local due = {
  wait = function()
    if c.state == 'waiting' then
      close(c, 'timeout')
    end
  end,
  gone = function()
    if c.state == 'waiting' and online(CUSTOMER .. c.customerId) ~= '1' then
      close(c, 'abandoned')
    end
  end,
  lost = function()
    if c.state == 'active' and online(c.agentId) ~= '1' then
      local from, from_name = c.agentId, c.agentName
      deactivate(c)
      enqueue(c)
      report(c, 'transferred', { fromId = from, fromName = from_name, note = '', state = c.state })
    end
  end,
  idle = function()
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
local entry = arg(2) .. ':' .. arg(1)
local at = redis.call('ZSCORE', own('-deadlines'), entry)
if not at or tonumber(at) > now then
  return {}
end
redis.call('ZREM', own('-deadlines'), entry)
if not c or not due[arg(2)] then
  return {}
end
due[arg(2)]()
return records(c)
