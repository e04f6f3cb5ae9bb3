-- Remove a webhook.
--
-- KEYS  webhooks (set of ids) · webhook (hash)
-- ARGV  id
-- Answer 1, or 0 if there is no such webhook
redis.call('DEL', KEYS[2])
return redis.call('SREM', KEYS[1], ARGV[1])
