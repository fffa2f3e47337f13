-- Code that the scripts share. It is loaded in front of each script, so that a script stays one atomic step.
-- KEYS[1]  the lock: string "id token since_us" with an expiry; present while there is an exclusive holder
-- KEYS[2]  the index: sorted set, lock key -> server ms; the locks that have waiters or were handed over, shared or
--          renewed. The client passes it on a Cluster, where each Cluster slot has an index, and if the prefix
--          contains 'lock:{'; otherwise the scripts use <prefix>lock:index
-- Further keys share the Cluster slot of the lock by its braces. The scripts build their names: each key more in a call
-- costs the client as much as half a command.
--   :fence   the last token given for this resource
--   :queue   sorted set, id -> ticket: the wait queue, in the order of arrival
--   :alive   sorted set, id -> server ms until which the waiter's last heartbeat keeps its slot
--   :until   sorted set, id -> server ms: the holders that share the lock or have a permit, each with its own end
--   :share   hash, id -> "token since_us" of the same holders
-- An id is "<x | s | p and a limit> <ttl_ms> <channel of its process>/<waiter_id>-<uuid> <owner>".
local call = redis.call
local INDEX = KEYS[2] or string.match(KEYS[1], '^(.-)lock:{') .. 'lock:index'
local LOCK, FENCE, QUEUE, ALIVE, UNTIL, SHARE

-- Selects the resource that the functions below work on, one at a time.
local function select_lock(lock)
  LOCK, FENCE, QUEUE, ALIVE = lock, lock .. ':fence', lock .. ':queue', lock .. ':alive'
  UNTIL, SHARE = lock .. ':until', lock .. ':share'
end
select_lock(KEYS[1])

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

-- Compares the whole id; only token and time may follow it. An id is the proof of ownership and comes from outside
-- where leases are used over HTTP, so a matching beginning is not enough.
local function is_mine(held, id)
  return held and string.sub(held, 1, #id + 1) == id .. ' ' and string.find(held, '^%d+ %d+$', #id + 2)
end

local function ttl_of(id)
  return tonumber(string.match(id, '^%S+ (%d+) '))
end

-- Queues a message to the process of this id, which knows the recipient by its waiter_id. Messages are published at the
-- end, after all changes (script.ts), and by pcall: for a user without rights on channels the lock still moves, and the
-- answer says so.
local messages = {}
local function notify(id, what)
  local channel, waiter_id = string.match(id, '^%S+ %S+ (%S*)/(%d+)')
  if channel then messages[#messages + 1] = { channel, waiter_id .. ' ' .. what } end
end

local function publish()
  for _, one in ipairs(messages) do redis.pcall('PUBLISH', one[1], one[2]) end
end

-- Makes a key whose entries end at different times live at least until this entry ends.
local function extend_expiry(key, ttl_ms)
  if call('PTTL', key) < ttl_ms then call('PEXPIRE', key, text(ttl_ms)) end
end

local function leave_share(id)
  call('HDEL', SHARE, id)
  return call('ZREM', UNTIL, id) == 1
end

-- Counts the holders that share the lock or have a permit, after removing expired ones. After the clock was set back,
-- an end may be further away than any TTL allows: this moves it back, so that a dead holder blocks the lock for its TTL
-- and not for an hour.
local function count_sharers(now_ms)
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

-- Returns whether this id may join the holders, given that there is no exclusive one. Among permits with different
-- limits the lowest limit of a holder counts, so that no holder sees more than it was promised.
local function may_join(id, now_ms)
  local count = count_sharers(now_ms)
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

-- Grants the lock to this id, with a token above every earlier one. Returns the token, as a number and as text.
-- Where the clock is behind the last token, higher tokens may have been given and forgotten: a stale replica was
-- promoted, or the floor comes from an SQL database that never saw them. The next number could be one of those, so the
-- token skips up to 16 ms of them at random; not for less than a millisecond, because one step may grant the lock to
-- many waiters. The clock catches up while a lock is granted less than 100 times a second; at 3,000 times a second
-- tokens run ahead of it, but stay exact numbers for nine years.
local function grant(id, ttl_ms, now_us, last)
  local token = now_us
  if last and last + 1 > token then
    token = last + 1
    if token > now_us + 1000 then token = token + now_us % 16384 end
  end
  local as_text = text(token)
  local value = as_text .. ' ' .. (token == now_us and as_text or text(now_us))
  if string.byte(id) == EXCLUSIVE then
    -- NX matters only when the key holds something that is not a lock: it is left unchanged, and there is no lease.
    if not call('SET', LOCK, id .. ' ' .. value, 'PX', ttl_ms, 'NX') then return nil end
  else
    call('ZADD', UNTIL, text(ms(now_us) + ttl_ms), id)
    call('HSET', SHARE, id, value)
    extend_expiry(UNTIL, tonumber(ttl_ms))
    extend_expiry(SHARE, tonumber(ttl_ms))
  end
  -- A week: tokens follow the clock, so the stored token only has to outlive a step of the clock backwards.
  call('SET', FENCE, as_text, 'EX', '604800')
  call('ZADD', INDEX, text(ms(now_us) + ttl_ms), LOCK)
  return token, as_text
end

-- No slot is given for more than 3 s. One that claims more than 10 s was written before the clock was set back; its
-- waiter, if it lives, returns.
local function is_alive(until_ms, now_ms)
  return until_ms > now_ms and until_ms < now_ms + 10000
end

local function count_waiting(now_ms)
  return call('ZCOUNT', ALIVE, '(' .. text(now_ms), '(' .. text(now_ms + 10000))
end

-- Returns the first live waiter and the end of its slot. All dead waiters in front of it are removed in this same step,
-- so k waiters that died together cost the queue the lifetime of one slot, not of k.
local function queue_head(now_ms)
  while true do
    local first = call('ZRANGE', QUEUE, 0, 0)[1]
    if not first then return nil end
    local until_ms = tonumber(call('ZSCORE', ALIVE, first) or '0')
    if is_alive(until_ms, now_ms) then return first, until_ms end
    call('ZREM', QUEUE, first)
    call('ZREM', ALIVE, first)
  end
end

local function leave_queue(id)
  call('ZREM', QUEUE, id)
  call('ZREM', ALIVE, id)
end

-- Grants a lock without an exclusive holder to the head of the queue, and to the waiters behind it as far as they may
-- share it, and notifies their processes: no other caller can get in between, and the waiters need not poll. The lock
-- lives only as long as the slot would have: what the waiter knows about the end of its slot on its own clock then
-- holds for the lock, and a dead head costs no more than its slot did.
local function hand_over(now_us)
  local now_ms = ms(now_us)
  while true do
    local head, until_ms = queue_head(now_ms)
    if not head or not may_join(head, now_ms) then return end
    local _, token = grant(head, text(until_ms - now_ms), now_us, call('GET', FENCE))
    if not token then return end
    leave_queue(head)
    notify(head, text(until_ms) .. ' ' .. token)
    if string.byte(head) == EXCLUSIVE then return end
  end
end

-- Called after a holder or waiter has left. Hands the lock over, or removes the resource from the index if it is no longer
-- in use.
local function advance_queue(now_us)
  if call('EXISTS', QUEUE) == 1 then hand_over(now_us or server_us()) end
  if call('EXISTS', LOCK, UNTIL) == 0 then call('ZREM', INDEX, LOCK) end
end
