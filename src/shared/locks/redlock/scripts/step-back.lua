-- Takes back what this id has here, as it got no quorum: it stands in line again, behind whoever came before it.
-- KEYS 1 lock (see voter.lua)
-- ARGV 1 id  2 place_ttl_ms: 0 = do not stand in line
local id = ARGV[1]
local now_us = server_us()
if value_of(id, ms(now_us)) then remove(id) end
if ARGV[2] ~= '0' then stand_in_line(id, tonumber(ARGV[2]), ms(now_us)) end
go_on(now_us)
return 1
