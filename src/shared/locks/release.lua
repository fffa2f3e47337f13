-- Lets go of the lock if this owner still has it, and wakes the head of the line.
-- KEYS 1 lock  2 queue  3 alive (see line.lua)
-- ARGV 1 id
-- Returns 1 released, 0 it had expired, -1 another owner has it
local held = redis.call('GET', KEYS[1])
local mine = is_mine(held, ARGV[1])
if held and not mine then return -1 end
if mine then redis.call('DEL', KEYS[1]) end
if redis.call('EXISTS', KEYS[2]) == 1 then
  local head = line_head(KEYS[2], KEYS[3], math.floor(server_us() / 1000))
  if head then wake(head) end
end
return mine and 1 or 0
