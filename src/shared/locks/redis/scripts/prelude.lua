-- What the verbs share, loaded in front of each, so that a script stays one atomic step.
-- KEYS 1 lock   string "id token since_us", expires: the exclusive holder
--      2 index  sorted set, lock key -> server ms: what may be locked, as far as it is waited for, handed over, shared or
--               renewed. Given on a Cluster, where each slot has one, and where the prefix has a
--               'lock:{' of its own; else it is <prefix>lock:index
-- Beside the lock key stand others, in its slot by its braces. Their names are made here: a key more in each call costs
-- the client as much as half a command.
--      :fence   the last token given for this resource
--      :queue   sorted set, id -> ticket: who waits, in the order of arrival
--      :alive   sorted set, id -> server ms until which the waiter's own heartbeat keeps its place
--      :until   sorted set, id -> server ms: who shares the lock or has a permit of it, each until its own end
--      :share   hash, id -> "token since_us" of the same
-- An id is "<x | s | p and a limit> <ttl_ms> <channel of its process>/<seat>-<uuid> <owner>".
local call = redis.call
local INDEX = KEYS[2] or string.match(KEYS[1], '^(.-)lock:{') .. 'lock:index'
local LOCK, FENCE, QUEUE, ALIVE, UNTIL, SHARE

-- A script works on one resource at a time.
local function on(lock)
  LOCK, FENCE, QUEUE, ALIVE = lock, lock .. ':fence', lock .. ':queue', lock .. ':alive'
  UNTIL, SHARE = lock .. ':until', lock .. ':share'
end
on(KEYS[1])

local EXCLUSIVE, PERMIT = 120, 112

local function server_us()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

local function ms(us)
  return math.floor(us / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- The whole id, and nothing but token and time behind it: an id comes from outside where leases are given over HTTP, and
-- the beginning of somebody else's is no proof of anything.
local function is_mine(held, id)
  return held and string.sub(held, 1, #id + 1) == id .. ' ' and string.find(held, '^%d+ %d+$', #id + 2)
end

local function ttl_of(id)
  return tonumber(string.match(id, '^%S+ (%d+) '))
end

-- Tells the process of this id something; it knows it by its seat. Told last, when all else is done (script.ts), and
-- by pcall: a user without rights on channels gets its lock moved all the same, and the answer says so.
local news = {}
local function tell(id, what)
  local channel, seat = string.match(id, '^%S+ %S+ (%S*)/(%d+)')
  if channel then news[#news + 1] = { channel, seat .. ' ' .. what } end
end

local function publish()
  for _, one in ipairs(news) do redis.pcall('PUBLISH', one[1], one[2]) end
end

-- A key with entries that end at different times lives at least until this one's end.
local function keep(key, ttl_ms)
  if call('PTTL', key) < ttl_ms then call('PEXPIRE', key, text(ttl_ms)) end
end

local function leave_share(id)
  call('HDEL', SHARE, id)
  return call('ZREM', UNTIL, id) == 1
end

-- How many share the lock or have a permit of it, after those whose time is over are gone. Where the clock was set back,
-- an end lies further away than any that is given: it is brought back, so that a dead holder costs its TTL, not an hour.
local function sharers(now_ms)
  for _, id in ipairs(call('ZRANGEBYSCORE', UNTIL, '-inf', text(now_ms))) do
    leave_share(id)
  end
  local last = call('ZREVRANGE', UNTIL, 0, 0, 'WITHSCORES')
  if not last[1] then return 0 end
  if last[2] - now_ms > ttl_of(last[1]) then
    local all = call('ZRANGE', UNTIL, 0, -1, 'WITHSCORES')
    for i = 1, #all, 2 do
      local longest = now_ms + ttl_of(all[i])
      if tonumber(all[i + 1]) > longest then call('ZADD', UNTIL, text(longest), all[i]) end
    end
  end
  return call('ZCARD', UNTIL)
end

-- May this id join those who have the lock, when nobody has it exclusively? With different limits the lowest of those
-- who hold a permit counts, so that nobody sees more than it was promised.
local function admits(id, now_ms)
  local count = sharers(now_ms)
  if count == 0 then return true end
  local mode = string.byte(id)
  if mode == EXCLUSIVE then return false end
  local others = call('ZRANGE', UNTIL, 0, mode == PERMIT and -1 or 0)
  if string.byte(others[1]) ~= mode then return false end
  if mode ~= PERMIT then return true end
  local limit = tonumber(string.match(id, '^p(%d+)'))
  for _, other in ipairs(others) do
    limit = math.min(limit, tonumber(string.match(other, '^p(%d+)')))
  end
  return count < limit
end

-- Gives the lock to this id, with a token above every one before it. Returns the token, as a number and as text.
-- Where the clock is behind the last token, tokens that were given above it may be forgotten: a replica that had fallen
-- behind was promoted, or the floor comes from an SQL that never saw them. The next number would be one of them, so it
-- skips up to 16 ms of them at random; not for less than a millisecond, by which a step gives the lock to many at once.
-- The clock catches up where a lock is given less than 100 times a second; where it is given 3,000 times, tokens run
-- ahead of it, but stay exact numbers for nine years.
local function take(id, ttl_ms, now_us, last)
  local token = now_us
  if last and last + 1 > token then
    token = last + 1
    if token > now_us + 1000 then token = token + now_us % 16384 end
  end
  local as_text = text(token)
  local value = as_text .. ' ' .. (token == now_us and as_text or text(now_us))
  if string.byte(id) == EXCLUSIVE then
    -- NX only matters when something that is not a lock has the key: it is left alone, and nobody gets a lease.
    if not call('SET', LOCK, id .. ' ' .. value, 'PX', ttl_ms, 'NX') then return nil end
  else
    call('ZADD', UNTIL, text(ms(now_us) + ttl_ms), id)
    call('HSET', SHARE, id, value)
    keep(UNTIL, tonumber(ttl_ms))
    keep(SHARE, tonumber(ttl_ms))
  end
  -- A week: tokens follow the clock, so the counter only has to outlive a step of the clock backwards.
  call('SET', FENCE, as_text, 'EX', '604800')
  call('ZADD', INDEX, text(ms(now_us) + ttl_ms), LOCK)
  return token, as_text
end

-- No place is given for more than 3 s: one that claims to live longer than 10 s is left from before the clock was set
-- back, and its owner, if any, returns.
local function lives(until_ms, now_ms)
  return until_ms > now_ms and until_ms < now_ms + 10000
end

local function count_waiting(now_ms)
  return call('ZCOUNT', ALIVE, '(' .. text(now_ms), '(' .. text(now_ms + 10000))
end

-- The first waiter that is alive, and until when. All the dead ones in front of it go in this same step, so k waiters
-- that died together cost the line one place's lifetime, not k.
local function line_head(now_ms)
  while true do
    local first = call('ZRANGE', QUEUE, 0, 0)[1]
    if not first then return nil end
    local until_ms = tonumber(call('ZSCORE', ALIVE, first) or '0')
    if lives(until_ms, now_ms) then return first, until_ms end
    call('ZREM', QUEUE, first)
    call('ZREM', ALIVE, first)
  end
end

local function leave_line(id)
  call('ZREM', QUEUE, id)
  call('ZREM', ALIVE, id)
end

-- Hands what nobody has exclusively over to the head of the line, and to those behind it as far as they may share it,
-- and tells them so through their processes' channels: nobody can get in between, and they need not ask. Only for as
-- long as the place would have lived: what its owner knows about the place's end on its own clock holds for the lock,
-- and a dead head costs no more than its place did.
local function hand_over(now_us)
  local now_ms = ms(now_us)
  while true do
    local head, until_ms = line_head(now_ms)
    if not head or not admits(head, now_ms) then return end
    local _, token = take(head, text(until_ms - now_ms), now_us, call('GET', FENCE))
    if not token then return end
    leave_line(head)
    tell(head, text(until_ms) .. ' ' .. token)
    if string.byte(head) == EXCLUSIVE then return end
  end
end

-- After somebody has left: the line goes on, or the resource is no longer in use.
local function go_on(now_us)
  if call('EXISTS', QUEUE) == 1 then hand_over(now_us or server_us()) end
  if call('EXISTS', LOCK, UNTIL) == 0 then call('ZREM', INDEX, LOCK) end
end
