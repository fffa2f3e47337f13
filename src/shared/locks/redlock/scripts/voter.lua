-- Code that the scripts of one voter share. It is loaded behind prelude.lua, whose grant, hand_over and advance_queue are
-- not for voters.
-- KEYS[1]  the lock, KEYS[2] the index: as in prelude.lua
-- <prefix>lock:voter  string "run_id since_ms": which run of this server may vote, and when its time without a vote
-- began
-- An id has its ticket behind the waiter_id: "<x | s> <ttl_ms> <channel of its process>/<waiter_id>-<ticket>-<uuid>
-- <owner>". The client sends the same ticket to every voter, so that all wait queues have one order.
-- Where prelude.lua keeps "token since_us", a token of 0 marks a vote: "0 slot_ms". This voter then gives the lock to
-- no other id, but a vote gives way to an earlier ticket, and its owner waits in the queue again for slot_ms (0: it was
-- not waiting). Only a lock, with its token, stays until its end.
local VOTER = string.sub(INDEX, 1, -#'index' - 1) .. 'voter'

local function ticket_of(id)
  return tonumber(string.match(id, '^%S+ %S+ %S*/%d+%-(%d+)%-') or '0')
end

local function before(id, other)
  local a, b = ticket_of(id), ticket_of(other)
  return a < b or (a == b and id < other)
end

-- Reads "token since_us" or "0 slot_ms" as two numbers; nil for anything else.
local function parse_value(value)
  local first, second = string.match(value, '(%d+) (%d+)$')
  return tonumber(first), tonumber(second)
end

-- Returns nil if this server may vote, -1 if it is not initialized, else for how many ms it is still not eligible. A
-- server that was restarted, flushed or restored from a copy may have forgotten a lock. It does not vote until every
-- lock that it may have forgotten is over.
local function not_eligible(max_ttl_ms, now_ms)
  local known = call('GET', VOTER)
  if not known then return -1 end
  local run_id = string.match(call('INFO', 'server'), 'run_id:(%x+)')
  local voter, since_ms = string.match(known, '^(%x+) (%d+)$')
  if voter ~= run_id or tonumber(since_ms) > now_ms then
    call('SET', VOTER, run_id .. ' ' .. text(now_ms))
    return tonumber(max_ttl_ms)
  end
  local left_ms = since_ms + max_ttl_ms - now_ms
  if left_ms > 0 then return left_ms end
end

-- Returns "token since_us" or "0 slot_ms" if this id has a lock or a vote here.
local function value_of(id, now_ms)
  if string.byte(id) == EXCLUSIVE then
    local held = call('GET', LOCK)
    return is_mine(held, id) and string.match(held, '%d+ %d+$') or nil
  end
  if count_sharers(now_ms) == 0 or not call('ZSCORE', UNTIL, id) then return nil end
  return call('HGET', SHARE, id) or nil
end

local function put(id, value, ttl_ms, now_ms)
  if string.byte(id) == EXCLUSIVE then
    call('SET', LOCK, id .. ' ' .. value, 'PX', text(ttl_ms))
  else
    call('ZADD', UNTIL, text(now_ms + ttl_ms), id)
    call('HSET', SHARE, id, value)
    extend_expiry(UNTIL, ttl_ms)
    extend_expiry(SHARE, ttl_ms)
  end
  call('ZADD', INDEX, 'GT', text(now_ms + ttl_ms), LOCK)
  leave_queue(id)
end

local function remove(id)
  if string.byte(id) == EXCLUSIVE then call('DEL', LOCK) else leave_share(id) end
end

local function enqueue(id, slot_ms, now_ms)
  call('ZADD', QUEUE, text(ticket_of(id)), id)
  call('ZADD', ALIVE, text(now_ms + slot_ms), id)
  call('PEXPIRE', QUEUE, '600000')
  call('PEXPIRE', ALIVE, '600000')
  call('ZADD', INDEX, 'GT', text(now_ms + slot_ms), LOCK)
end

-- Lists the locks and votes of other ids that are in the way of this id. A value that is not a lock counts as one.
local function rivals_of(id, now_ms)
  local rivals = {}
  local held = call('GET', LOCK)
  if held and not is_mine(held, id) then
    rivals[1] = { id = string.match(held, '^(.*) %d+ %d+$') or held, value = held }
  end
  if string.byte(id) == EXCLUSIVE and count_sharers(now_ms) > 0 then
    for _, other in ipairs(call('ZRANGE', UNTIL, 0, -1)) do
      rivals[#rivals + 1] = { id = other, value = call('HGET', SHARE, other) or '' }
    end
  end
  for _, rival in ipairs(rivals) do
    rival.token, rival.slot_ms = parse_value(rival.value)
  end
  return rivals
end

-- Returns whether the way is free for this id. Votes with later tickets give way; with `every`, all votes do.
local function make_way(id, now_ms, every)
  local rivals = rivals_of(id, now_ms)
  for _, rival in ipairs(rivals) do
    if rival.token ~= 0 or not (every or before(id, rival.id)) then return false end
  end
  for _, rival in ipairs(rivals) do
    remove(rival.id)
    if rival.slot_ms > 0 then enqueue(rival.id, rival.slot_ms, now_ms) end
  end
  return true
end

-- The lowest possible token from this voter's point of view: the highest of a quorum is above all earlier tokens.
local function min_token(now_us)
  return math.max(now_us, tonumber(call('GET', FENCE) or '0') + 1)
end

-- Votes for the head of the queue, and for the waiters behind it as far as they may share, and notifies their
-- processes. A vote lives as long as the slot would have, so that a dead head costs no more than its slot did.
local function hand_over(now_us)
  local now_ms = ms(now_us)
  while true do
    local head, until_ms = queue_head(now_ms)
    if not head or not make_way(head, now_ms) then return end
    local slot_ms = until_ms - now_ms
    put(head, '0 ' .. text(slot_ms), slot_ms, now_ms)
    notify(head, text(until_ms) .. ' ' .. text(min_token(now_us)))
    if string.byte(head) == EXCLUSIVE then return end
  end
end

local function advance_queue(now_us)
  if call('EXISTS', QUEUE) == 1 then hand_over(now_us or server_us()) end
  if call('EXISTS', LOCK, UNTIL) == 0 then call('ZREM', INDEX, LOCK) end
end
