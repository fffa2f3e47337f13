-- Lets go of the lock if this owner still has it, and hands it over to the head of the line.
-- KEYS 1 lock  2 fence  3 queue  4 alive (see line.lua)
-- ARGV 1 id
-- Returns 1 released, 0 it had expired, -1 another owner has it
local held = redis.call('GET', KEYS[1])
local mine = is_mine(held, ARGV[1])
if held and not mine then return -1 end
if mine then redis.call('DEL', KEYS[1]) end
if redis.call('EXISTS', KEYS[3]) == 1 then hand_over(server_us()) end
return mine and 1 or 0
