-- Append entries to the feed, each id once.
--
-- KEYS  log (stream) · state (hash: top: id of the last entry; floor: id of the last entry that was removed;
--       entries and bytes: since the last mark) · marks (list) · for each entry the key that makes its id known
-- ARGV  most entries · most bytes (0: any) · for each entry: type, text
-- Answer: id of the last entry of the log
local log, state, marks = KEYS[1], KEYS[2], KEYS[3]
local most, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local KNOWN_MS = 300000 -- a record whose removal failed is published again when Valkey is back
local ENTRY = 100 -- bytes that an entry takes besides its text
local PARTS = 64

local added, bytes, top = 0, 0, nil
for i = 4, #KEYS do
  local kind, text = ARGV[2 * i - 5], ARGV[2 * i - 4]
  if redis.call('SET', KEYS[i], '1', 'NX', 'PX', KNOWN_MS) then
    top = redis.call('XADD', log, '*', 't', kind, 'e', text)
    added, bytes = added + 1, bytes + #text + ENTRY
  end
end
if not top then
  return redis.call('HGET', state, 'top') or '0-0'
end
redis.call('HSET', state, 'top', top)

-- The log is removed in parts: each 64th of what may be kept is marked by the id of its last entry, and with more than 64
-- marks the oldest part goes. So the floor is always the id of an entry, and an append costs no look at the log's size.
local entries = redis.call('HINCRBY', state, 'entries', added)
bytes = redis.call('HINCRBY', state, 'bytes', bytes)
if entries * PARTS >= most or (most_bytes > 0 and bytes * PARTS >= most_bytes) then
  redis.call('HSET', state, 'entries', 0, 'bytes', 0)
  if redis.call('RPUSH', marks, top) >= PARTS then
    local floor = redis.call('LPOP', marks)
    local ms, seq = string.match(floor, '^(%d+)-(%d+)$')
    redis.call('XTRIM', log, 'MINID', string.format('%s-%.0f', ms, seq + 1))
    redis.call('HSET', state, 'floor', floor)
  end
end
return top
