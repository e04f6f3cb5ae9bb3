-- Two servers have taken writes for longer than nodes remember: have every node tell all its rooms to load anew.
--
-- KEYS: tops (hash: '#' -> when this was found last). Each node compares what its probes say of '#' with what it knew.
local time = redis.call('TIME')
local found = time[1] .. '-' .. time[2]
redis.call('HSET', KEYS[1], '#', found)
return found
