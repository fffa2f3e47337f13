-- What the verbs share, loaded in front of each, so that a script stays one atomic step.
-- KEYS 1 lock   string "id token since_us", expires
--      2 fence  the last token given for this resource
--      3 queue  sorted set, id -> ticket: who waits, in the order of arrival
--      4 alive  sorted set, id -> server ms until which the waiter's own heartbeat keeps its place
-- An id is "<channel of its process>/<seat>-<uuid> <owner>".

local function server_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function is_mine(held, id)
  return held and string.find(held, id .. ' ', 1, true) == 1
end

-- Gives the free lock to this id, with a token above every one before it. Returns the token, as a number and as text.
local function take(id, ttl_ms, now_us, last)
  local token = now_us
  if last and last + 1 > token then token = last + 1 end
  local text = string.format('%.0f', token)
  local since = token == now_us and text or string.format('%.0f', now_us)
  -- NX only matters when something that is not a lock has the key: it is left alone, and nobody gets a lease.
  if not redis.call('SET', KEYS[1], id .. ' ' .. text .. ' ' .. since, 'PX', ttl_ms, 'NX') then return nil end
  -- A week: tokens follow the clock, so the counter only has to outlive a step of the clock backwards.
  redis.call('SET', KEYS[2], text, 'EX', '604800')
  return token, text
end

-- The first waiter that is alive, and until when. All the dead ones in front of it go in this same step, so k waiters
-- that died together cost the line one place's lifetime, not k. No place is given for more than 3 s: one that claims to
-- live longer than 10 s is left from before the clock was set back, and its owner, if any, returns.
local function line_head(now_ms)
  while true do
    local first = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
    if not first then return nil end
    local until_ms = tonumber(redis.call('ZSCORE', KEYS[4], first) or '0')
    if until_ms > now_ms and until_ms < now_ms + 10000 then return first, until_ms end
    redis.call('ZREM', KEYS[3], first)
    redis.call('ZREM', KEYS[4], first)
  end
end

-- Hands the free lock to the head of the line and tells it so through its process's channel: nobody can get in between,
-- and the head need not ask. Only for as long as its place would have lived: what it knows about its place's end on its
-- own clock holds for the lock, and a dead head costs no more than its place did.
local function hand_over(now_us)
  local now_ms = math.floor(now_us / 1000)
  local head, until_ms = line_head(now_ms)
  if not head then return end
  local left_ms, place = string.format('%.0f', until_ms - now_ms), string.format('%.0f', until_ms)
  local _, text = take(head, left_ms, now_us, redis.call('GET', KEYS[2]))
  if not text then return end
  redis.call('ZREM', KEYS[3], head)
  redis.call('ZREM', KEYS[4], head)
  redis.call('PUBLISH', string.match(head, '^(%S*)/'), head .. ' ' .. place .. ' ' .. text)
end
