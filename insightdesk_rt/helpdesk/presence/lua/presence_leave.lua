-- A node holds no connection of a user any more. Idempotent.
--
-- own KEYS  the node's users · the user's two
-- ARGV  userId · node incarnation · grace period in ms
-- Answer 1 if it was the last node: the user goes offline when the grace period ends
return drop(user_at(10, ARGV[1]), ARGV[2], KEYS[9], now_ms(), tonumber(ARGV[3]))
