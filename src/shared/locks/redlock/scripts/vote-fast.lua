-- The common case of vote.lua, placed in front of the prelude, which it does not need: an exclusive request with a
-- proposed token, no holder, no waiters. No earlier ticket can claim the vote then, so vote and confirmation are one
-- step. It does not write the index, so a lock that is released at once costs nothing there: renew.lua adds the entry.
-- The proposed token must not be behind this server's clock: tokens rise with the clock even if a server has forgotten the
-- last token. Nor may it be ahead of the clock by a second, or by the time for which a server without memory may not vote,
-- so that no client's clock makes tokens run away.
-- KEYS and ARGV as in vote.lua.
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
