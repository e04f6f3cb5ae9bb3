-- Return the events at some offsets of a log, in the given order, up to a limit in bytes.
--
-- KEYS: log
-- ARGV: bytes to return, then ids
-- Returns {how many ids were looked at, or -1 if one is not in the log any more; id, header, payload of each}.
local answer, bytes = { 0 }, 0
for n = 2, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[n], ARGV[n])[1]
  if not entry then
    return { -1 }
  end
  local fields = entry[2]
  answer[#answer + 1] = ARGV[n]
  answer[#answer + 1] = fields[4]
  answer[#answer + 1] = fields[6]
  answer[1] = n - 1
  bytes = bytes + #fields[6]
  if bytes > tonumber(ARGV[1]) then
    break
  end
end
return answer
