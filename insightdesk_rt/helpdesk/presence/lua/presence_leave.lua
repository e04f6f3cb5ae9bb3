-- A node holds no connection of a user any more. Idempotent.
--
-- KEYS  base
-- ARGV  userId · node incarnation · grace period in ms
-- Answer 1 if it was the last node: the user goes offline when the grace period ends
return drop(ARGV[1], ARGV[2], now_ms(), tonumber(ARGV[3]))
