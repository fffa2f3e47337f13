-- Renews the lock, if this owner holds it.
-- KEYS[1]  the lock
-- KEYS[2]  the index (see prelude.lua)
-- ARGV[1]  id of the owner
-- ARGV[2]  ttl_ms
-- Returns the number of live waiters (0 or more), -1 when the lock is gone, -2 when another owner holds it.
local id, ttl_ms = ARGV[1], ARGV[2]
local held = call('GET', LOCK)
local now_ms = ms(server_us())
if string.byte(id) == EXCLUSIVE then
  if not held then return call('EXISTS', UNTIL) == 1 and -2 or -1 end
  if not is_mine(held, id) then return -2 end
  call('PEXPIRE', LOCK, ttl_ms)
else
  if held then return -2 end
  if count_sharers(now_ms) == 0 or not call('ZSCORE', UNTIL, id) then return -1 end
  call('ZADD', UNTIL, text(now_ms + ttl_ms), id)
  extend_expiry(UNTIL, tonumber(ttl_ms))
  extend_expiry(SHARE, tonumber(ttl_ms))
end
call('ZADD', INDEX, text(now_ms + ttl_ms), LOCK)
if call('EXISTS', ALIVE) == 0 then return 0 end
return count_waiting(now_ms)
