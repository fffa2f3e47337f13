-- Repairs a voter: stores a lock that it has lost or never had, after other voters of the quorum have renewed it.
-- Refused when the voter has confirmed a later token, because another owner has held the lock since. Votes give way,
-- since they are not locks.
-- KEYS[1]  the lock (see voter.lua)
-- ARGV[1]  id of the owner
-- ARGV[2]  token
-- ARGV[3]  ttl_ms
-- Returns 1, or 0 when it was refused.
local id, token, ttl_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now_us = server_us()
local now_ms = ms(now_us)
local value = value_of(id, now_ms)
if not value or parse_value(value) ~= token then
  if tonumber(call('GET', FENCE) or '0') > token or not make_way(id, now_ms, true) then return 0 end
  value = text(token) .. ' ' .. text(now_us)
  call('SET', FENCE, text(token), 'EX', '604800')
end
put(id, value, ttl_ms, now_ms)
return 1
