-- The common case of withdraw.lua, placed in front of the prelude, which it does not need: this id holds the lock
-- exclusively, and there are no waiters.
-- KEYS and ARGV as in withdraw.lua.
local call = redis.call
do
  local lock, id = KEYS[1], ARGV[1]
  if string.byte(id) == 120 and call('EXISTS', lock .. ':queue') == 0 then
    local held = call('GET', lock)
    if held and string.find(held, id .. ' ', 1, true) == 1 then
      call('ZREM', KEYS[2] or string.match(lock, '^(.-)lock:{') .. 'lock:index', lock)
      call('DEL', lock)
      return string.match(held, ' (%d+) %d+$') ~= '0' and 1 or 0
    end
  end
end
