-- Undoes whatever this id has: the lock that a late acquire took or that was handed to it, or its place in line. Hands
-- on the turn if it was its.
-- KEYS 1 lock  2 fence  3 queue  4 alive (see line.lua)
-- ARGV 1 id
local id = ARGV[1]
local held = redis.call('GET', KEYS[1])
local turn = is_mine(held, id)
if turn then
  redis.call('DEL', KEYS[1])
else
  turn = not held and redis.call('ZRANGE', KEYS[3], 0, 0)[1] == id
end
redis.call('ZREM', KEYS[3], id)
redis.call('ZREM', KEYS[4], id)
if turn then hand_over(server_us()) end
return 1
