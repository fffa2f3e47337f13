-- The common case of release.lua, placed in front of the prelude, which it does not need: this owner holds the lock
-- exclusively, and there are no waiters.
-- KEYS and ARGV as in release.lua.
local call = redis.call
do
  local lock, id = KEYS[1], ARGV[1]
  if string.byte(id) == 120 and call('EXISTS', lock .. ':queue') == 0 then
    local held = call('GET', lock)
    -- Compares the whole id, as is_mine does.
    if held and string.sub(held, 1, #id + 1) == id .. ' ' and string.find(held, '^%d+ %d+$', #id + 2) then
      if ARGV[2] then call('ZREM', KEYS[2] or string.match(lock, '^(.-)lock:{') .. 'lock:index', lock) end
      return call('DEL', lock)
    end
  end
end
