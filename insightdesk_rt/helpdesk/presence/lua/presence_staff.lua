-- Return agents and admins with these statuses, status by status, those who have it longest first (after page.lua).
--
-- KEYS  base
-- ARGV  limit · status, score and userId after which the page starts, or "", "", "" · statuses, in order
-- Answer {status, score, userId}…
local base, left, found = KEYS[1], tonumber(ARGV[1]), {}
local begun = ARGV[2] == ''
for i = 5, #ARGV do
  local here = ARGV[i] == ARGV[2]
  begun = begun or here
  if begun and left > 0 then
    local those = page(base .. '-agents:' .. ARGV[i], false, left, ARGV[3], here and ARGV[4] or '')
    for n = 1, #those, 2 do
      found[#found + 1] = { ARGV[i], those[n + 1], those[n] }
      left = left - 1
    end
  end
end
return found
