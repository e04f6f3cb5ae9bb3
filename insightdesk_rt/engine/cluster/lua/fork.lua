-- Note that two servers have accepted writes for longer than nodes remember, so that all nodes tell the clients of this
-- namespace to reload. Nodes compare the field `fork` that their probes read with its last value.
--
-- KEYS: the log's state (hash)
-- Returns the new value: the time.
local time = redis.call('TIME')
local found = time[1] .. '-' .. time[2]
redis.call('HSET', KEYS[1], 'fork', found)
return found
