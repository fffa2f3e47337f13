-- Returns the lowest token that is above every token this voter has confirmed.
-- KEYS[1]  the lock (see voter.lua)
return min_token(server_us())
