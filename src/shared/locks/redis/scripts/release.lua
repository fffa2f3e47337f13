-- Releases the lock if this owner still holds it, and hands it over to the head of the wait queue.
-- KEYS[1]  the lock
-- KEYS[2]  the index (see prelude.lua)
-- ARGV[1]  id of the owner
-- ARGV[2]  present when the lock may be in the index
-- Returns 1 when it was released, 0 when it had expired, -1 when another owner holds it.
local id = ARGV[1]
local held = call('GET', LOCK)
local answer
if string.byte(id) == EXCLUSIVE then
  if held and not is_mine(held, id) then return -1 end
  answer = held and call('DEL', LOCK) or 0
  held = false
else
  local now_us = server_us()
  count_sharers(ms(now_us))
  answer = leave_share(id) and 1 or held and -1 or 0
end
if not held then advance_queue() end
return answer
