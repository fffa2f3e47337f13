-- Removes whatever this id has: a lock that a late acquire got or that was handed over to it, or its slot in the wait
-- queue. If that frees the lock, the next waiter gets it.
-- KEYS[1]  the lock
-- KEYS[2]  the index (see prelude.lua)
-- ARGV[1]  id of the owner
-- Returns 1.
local id = ARGV[1]
local held = call('GET', LOCK)
if is_mine(held, id) then
  call('DEL', LOCK)
  held = false
end
leave_share(id)
leave_queue(id)
if not held then advance_queue() end
return 1
