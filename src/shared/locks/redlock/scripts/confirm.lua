-- Turns the vote of this id into a lock, with the token that its owner chose from the answers of a quorum. The lease
-- exists once a quorum has confirmed: any two quorums share a voter, and that voter confirms neither a second lock
-- beside the first nor a token that is not above every token that it has seen.
-- KEYS[1]  the lock (see voter.lua)
-- ARGV[1]  id of the owner
-- ARGV[2]  max_ttl_ms
-- ARGV[3]  token
-- ARGV[4]  ttl_ms
-- Returns 1, 0 when this id has no vote here any more, or the last token when the proposed one is not above it.
local id, token, ttl_ms = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local now_us = server_us()
local now_ms = ms(now_us)
if not_eligible(ARGV[2], now_ms) then return 0 end
local value = value_of(id, now_ms)
if not value then return 0 end
if parse_value(value) ~= token then
  local fence = tonumber(call('GET', FENCE) or '0')
  if fence >= token then return fence end
  value = text(token) .. ' ' .. text(now_us)
  call('SET', FENCE, text(token), 'EX', '604800')
end
put(id, value, ttl_ms, now_ms)
return 1
