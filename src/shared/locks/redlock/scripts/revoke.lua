-- Revokes the lock from every holder whose token is not above ARGV[1], notifies their processes, and hands the lock over
-- with a token above ARGV[1]. A holder with a later token was granted the lock after the forced release was decided, and keeps it.
-- KEYS[1]  the lock (see voter.lua)
-- ARGV[1]  the raised token
-- Returns for each revoked holder: "id token since_us", ttl_left_ms.
local fence = tonumber(ARGV[1])
local now_us = server_us()
local now_ms = ms(now_us)
local answer = {}

local function revoke(id, value, ttl_left_ms)
  local token = parse_value(value)
  if not token or token == 0 or token > fence then return end
  remove(id)
  notify(id, 'taken')
  answer[#answer + 1] = id .. ' ' .. value
  answer[#answer + 1] = ttl_left_ms
end

local held = call('GET', LOCK)
if held then revoke(string.match(held, '^(.*) %d+ %d+$'), string.match(held, '%d+ %d+$') or '', call('PTTL', LOCK)) end
if count_sharers(now_ms) > 0 then
  local others = call('ZRANGE', UNTIL, 0, -1, 'WITHSCORES')
  for i = 1, #others, 2 do
    revoke(others[i], call('HGET', SHARE, others[i]) or '', others[i + 1] - now_ms)
  end
end
if tonumber(call('GET', FENCE) or '0') < fence then call('SET', FENCE, text(fence), 'EX', '604800') end
advance_queue(now_us)
return answer
