-- Takes the lock away from all who have it with a token up to this fence, tells them, and lets the line go on above it.
-- Whoever has a later token got the lock after it was decided to take it away.
-- KEYS 1 lock (see voter.lua)
-- ARGV 1 fence
-- Returns for each robbed holder: "id token since_us", ttl_left_ms
local fence = tonumber(ARGV[1])
local now_us = server_us()
local now_ms = ms(now_us)
local answer = {}

local function rob(id, value, ttl_left_ms)
  local token = parts(value)
  if not token or token == 0 or token > fence then return end
  remove(id)
  tell(id, 'taken')
  answer[#answer + 1] = id .. ' ' .. value
  answer[#answer + 1] = ttl_left_ms
end

local held = call('GET', LOCK)
if held then rob(string.match(held, '^(.*) %d+ %d+$'), string.match(held, '%d+ %d+$') or '', call('PTTL', LOCK)) end
if sharers(now_ms) > 0 then
  local others = call('ZRANGE', UNTIL, 0, -1, 'WITHSCORES')
  for i = 1, #others, 2 do
    rob(others[i], call('HGET', SHARE, others[i]) or '', others[i + 1] - now_ms)
  end
end
if tonumber(call('GET', FENCE) or '0') < fence then call('SET', FENCE, text(fence), 'EX', '604800') end
go_on(now_us)
return answer
