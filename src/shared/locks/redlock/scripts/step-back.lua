-- Gives up the vote or the lock of this id, because it got no quorum. The id waits in the queue again, behind
-- earlier tickets.
-- KEYS[1]  the lock (see voter.lua)
-- ARGV[1]  id of the owner
-- ARGV[2]  slot_ttl_ms; 0: do not wait
-- Returns 1.
local id = ARGV[1]
local now_us = server_us()
if value_of(id, ms(now_us)) then remove(id) end
if ARGV[2] ~= '0' then enqueue(id, tonumber(ARGV[2]), ms(now_us)) end
advance_queue(now_us)
return 1
