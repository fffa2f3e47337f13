-- The common case of acquire.lua, placed in front of the prelude, which it does not need: an exclusive request, no
-- holder, no waiters. It does not write the index, so a lock that is released at once costs nothing there: extend.lua
-- adds the entry.
-- KEYS and ARGV as in acquire.lua.
local call = redis.call
do
  local lock, id, above = KEYS[1], ARGV[1], ARGV[5]
  if string.byte(id) == 120 and call('EXISTS', lock, lock .. ':queue', lock .. ':until') == 0 then
    local fence = lock .. ':fence'
    local time = call('TIME')
    local now_us = time[1] * 1000000 + time[2]
    local token = now_us
    local function exceed(floor) -- as grant in prelude.lua
      token = floor + 1
      if token > now_us + 1000 then token = token + now_us % 16384 end
    end
    if above and above + 1 > token then exceed(above) end
    local as_text = string.format('%.0f', token)
    local last = call('SET', fence, as_text, 'EX', '604800', 'GET')
    if last and last + 1 > token then
      exceed(last)
      as_text = string.format('%.0f', token)
      call('SET', fence, as_text, 'EX', '604800')
    end
    local since = token == now_us and as_text or string.format('%.0f', now_us)
    call('SET', lock, id .. ' ' .. as_text .. ' ' .. since, 'PX', ARGV[2])
    return token
  end
end
