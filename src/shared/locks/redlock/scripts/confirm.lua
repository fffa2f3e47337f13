-- Makes this id's vote a lock, with the token that its owner chose from the answers of a quorum. The lease exists once a
-- quorum has confirmed: two quorums have a voter in common, and that one confirms no second lock beside the first, and
-- no token that is not above all that it has seen.
-- KEYS 1 lock (see voter.lua)
-- ARGV 1 id  2 max_ttl_ms  3 token  4 ttl_ms
-- Returns 1, 0 when the vote is no longer this id's, or the fence when the token is not above it
local id, token, ttl_ms = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local now_us = server_us()
local now_ms = ms(now_us)
if barred(ARGV[2], now_ms) then return 0 end
local value = value_of(id, now_ms)
if not value then return 0 end
if parts(value) ~= token then
  local fence = tonumber(call('GET', FENCE) or '0')
  if fence >= token then return fence end
  value = text(token) .. ' ' .. text(now_us)
  call('SET', FENCE, text(token), 'EX', '604800')
end
put(id, value, ttl_ms, now_ms)
return 1
