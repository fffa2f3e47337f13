-- KEYS 1 lock (see voter.lua)
-- Returns a token above all that this voter has confirmed
return least_token(server_us())
