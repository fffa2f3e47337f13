-- Renews the lock of this owner and nobody else's.
-- KEYS 1 lock  2 index (see prelude.lua)
-- ARGV 1 id  2 ttl_ms
-- Returns how many live waiters stand in line (0 or more), -1 the lock is gone, -2 another owner has it
local id, ttl_ms = ARGV[1], ARGV[2]
local held = call('GET', LOCK)
local now_ms = ms(server_us())
if string.byte(id) == EXCLUSIVE then
  if not held then return call('EXISTS', UNTIL) == 1 and -2 or -1 end
  if not is_mine(held, id) then return -2 end
  call('PEXPIRE', LOCK, ttl_ms)
else
  if held then return -2 end
  if sharers(now_ms) == 0 or not call('ZSCORE', UNTIL, id) then return -1 end
  call('ZADD', UNTIL, text(now_ms + ttl_ms), id)
  keep(UNTIL, tonumber(ttl_ms))
  keep(SHARE, tonumber(ttl_ms))
end
call('ZADD', INDEX, text(now_ms + ttl_ms), LOCK)
if call('EXISTS', ALIVE) == 0 then return 0 end
return count_waiting(now_ms)
