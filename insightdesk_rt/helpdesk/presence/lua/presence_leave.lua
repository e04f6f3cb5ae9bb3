-- A node holds no connection of a user any more. Again is nothing.
--
-- KEYS  base
-- ARGV  userId · node incarnation · grace in ms
-- Answer 1 if it was the last node: the user is offline once the grace is over
return drop(ARGV[1], ARGV[2], now_ms(), tonumber(ARGV[3]))
