-- Return conversations whose ids the caller has read from a list. They may have changed since then.
--
-- own ARGV  which of them: "mine", the open ones of the asking user; "waiting", those that the asking staff may take;
--           "", all · ids
-- Answer a row for each, in the order of the ids
local mine, waiting = arg(1) == 'mine', arg(1) == 'waiting'
local chosen, queues = {}, {}
for i = 2, ARGS do
  local c = load(arg(i))
  local wanted = c
  if c and mine then
    wanted = c.state ~= 'closed' and is_member(c)
  elseif c and waiting then
    wanted = c.state == 'waiting' and (who.role == 'admin' or c.teamId == '' or c.teamId == who.team)
  end
  if wanted then
    chosen[#chosen + 1] = c
    if c.state == 'waiting' then
      queues[#queues + 1] = base .. '-queue:' .. c.teamId
    end
  end
end
local more = undeclared(queues)
if more then
  return more
end
local rows = {}
for i, c in ipairs(chosen) do
  rows[i] = row(c)
end
return rows
