-- Several calls of the script in front of this, which is the function one, in one step. Each has as many keys and as many
-- arguments as the others, and fails alone.
-- ARGV 1 keys of a call  2 arguments of a call; then their arguments
-- Returns their answers
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
