-- Return the numbers of agents and admins by status.
--
-- KEYS  base
-- Answer {online, busy, away, offline}
local base = KEYS[1]
return {
  redis.call('ZCARD', base .. '-agents:online'),
  redis.call('ZCARD', base .. '-agents:busy'),
  redis.call('ZCARD', base .. '-agents:away'),
  redis.call('ZCARD', base .. '-agents:offline'),
}
