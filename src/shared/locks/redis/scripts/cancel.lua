-- Undoes whatever this id has: the lock that a late acquire took or that was handed to it, or its place in line. Hands
-- on the turn if it was its.
-- KEYS 1 lock  2 index (see prelude.lua)
-- ARGV 1 id
local id = ARGV[1]
local held = call('GET', LOCK)
if is_mine(held, id) then
  call('DEL', LOCK)
  held = false
end
leave_share(id)
leave_line(id)
if not held then go_on() end
return 1
