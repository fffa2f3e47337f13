-- Lets go of the lock if this owner still has it, and hands it over to the head of the line.
-- KEYS 1 lock  2 index (see prelude.lua)
-- ARGV 1 id  2 given when the lock may be in the index
-- Returns 1 released, 0 it had expired, -1 another owner has it
local id = ARGV[1]
local held = call('GET', LOCK)
local answer
if string.byte(id) == EXCLUSIVE then
  if held and not is_mine(held, id) then return -1 end
  answer = held and call('DEL', LOCK) or 0
  held = false
else
  local now_us = server_us()
  sharers(ms(now_us))
  answer = leave_share(id) and 1 or held and -1 or 0
end
if not held then go_on() end
return answer
