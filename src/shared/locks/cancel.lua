-- Undoes whatever this id has: the lock that a late acquire took, or its place in line. Hands on the turn if it was its.
-- KEYS 1 lock  2 queue  3 alive (see line.lua)
-- ARGV 1 id
local id = ARGV[1]
local held = redis.call('GET', KEYS[1])
local turn = is_mine(held, id)
if turn then
  redis.call('DEL', KEYS[1])
else
  turn = not held and redis.call('ZRANGE', KEYS[2], 0, 0)[1] == id
end
redis.call('ZREM', KEYS[2], id)
redis.call('ZREM', KEYS[3], id)
if turn then
  local head = line_head(KEYS[2], KEYS[3], math.floor(server_us() / 1000))
  if head then wake(head) end
end
return 1
