-- Removes whatever this id has here: the lock, the vote or the slot in the wait queue. The lock goes to the next
-- waiter.
-- KEYS[1]  the lock (see voter.lua)
-- ARGV[1]  id of the owner
-- Returns 1 when it held the lock, 0 when it did not, -1 when another owner holds it.
local id = ARGV[1]
local now_us = server_us()
local now_ms = ms(now_us)
local value = value_of(id, now_ms)
local answer = 0
if value then
  if parse_value(value) > 0 then answer = 1 end
  remove(id)
else
  for _, rival in ipairs(rivals_of(id, now_ms)) do
    if rival.token ~= 0 then answer = -1 end
  end
end
leave_queue(id)
advance_queue(now_us)
return answer
