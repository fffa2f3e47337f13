-- Takes away whatever this id has here: the lock, the vote or the place in line. The line goes on.
-- KEYS 1 lock (see voter.lua)
-- ARGV 1 id
-- Returns 1 it had the lock, 0 it had not, -1 somebody else has it
local id = ARGV[1]
local now_us = server_us()
local now_ms = ms(now_us)
local value = value_of(id, now_ms)
local answer = 0
if value then
  if parts(value) > 0 then answer = 1 end
  remove(id)
else
  for _, rival in ipairs(rivals_of(id, now_ms)) do
    if rival.token ~= 0 then answer = -1 end
  end
end
leave_line(id)
go_on(now_us)
return answer
