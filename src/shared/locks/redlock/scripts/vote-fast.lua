-- The common case of vote.lua, in front of everything that it does not need: nobody has the lock and nobody waits, it is
-- wanted exclusively, and the client has proposed a token. Then there is nobody to whom a vote could give way, so vote
-- and confirmation are one step. A lock that is let go at once costs its index nothing: renew.lua enters it.
-- The token must not be behind this server's clock, by which tokens rise also where a fence was forgotten; nor ahead of it
-- by the time that a forgetful server keeps out, or by a second, so that no client's clock makes tokens run away.
-- KEYS and ARGV as in vote.lua
local call = redis.call
if ARGV[6] then
  local lock, token = KEYS[1], tonumber(ARGV[6])
  local base = KEYS[2] and string.sub(KEYS[2], 1, -#'lock:index' - 1) or string.match(lock, '^(.-)lock:{')
  local known = call('GET', base .. 'lock:voter')
  if known and call('EXISTS', lock, lock .. ':queue', lock .. ':until') == 0 then
    local voter, since_ms = string.match(known, '^(%x+) (%d+)$')
    local time = call('TIME')
    local now_us = time[1] * 1000000 + time[2]
    if token >= now_us and token < now_us + math.min(1000000, ARGV[2] * 1000)
      and (since_ms or now_us) + ARGV[2] <= math.floor(now_us / 1000)
      and voter == string.match(call('INFO', 'server'), 'run_id:(%x+)')
      and token > tonumber(call('GET', lock .. ':fence') or '0')
    then
      call('SET', lock .. ':fence', ARGV[6], 'EX', '604800')
      call('SET', lock, ARGV[1] .. ' ' .. ARGV[6] .. ' ' .. string.format('%.0f', now_us), 'PX', ARGV[5])
      return 1
    end
  end
end
