-- Return a page of conversations in a state: waiting and active ones oldest first, closed ones newest first (after
-- page.lua).
--
-- KEYS  the set of that state
-- ARGV  1 for newest first · limit · score and id after which the page starts, or "" and ""
-- Answer id, score, …
return page(KEYS[1], ARGV[1] == '1', ARGV[2], ARGV[3], ARGV[4])
