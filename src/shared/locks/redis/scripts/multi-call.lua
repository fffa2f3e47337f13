-- Runs several calls of one script in one step. The text of the script precedes this one, as the function `one`.
-- Every call has the same number of keys and of arguments, and fails alone.
-- KEYS[1]...  the keys of all calls, one call after the other
-- ARGV[1]  number of keys of one call
-- ARGV[2]  number of arguments of one call
-- ARGV[3]...  the arguments of all calls, one call after the other
-- Returns the answers in the order of the calls.
local key_count, arg_count = tonumber(ARGV[1]), tonumber(ARGV[2])
local answers = {}
for n = 1, #KEYS / key_count do
  local keys, args = {}, {}
  for i = 1, key_count do keys[i] = KEYS[(n - 1) * key_count + i] end
  for i = 1, arg_count do args[i] = ARGV[2 + (n - 1) * arg_count + i] end
  local ok, answer = pcall(one, keys, args)
  answers[n] = ok and answer or type(answer) == 'table' and answer or redis.error_reply(tostring(answer))
end
return answers
