-- A node's sign of life, once a second: comes back to it through its own inbox.
-- KEYS 1 fence, 2 signs of life, 3 whether the epoch is young, 4 feed count
-- ARGV 1 fence, 2 node, 3 its inbox, 4 the sign, 5 publish command, 6 how long an epoch lasts (ms)
local fence = redis.call('GET', KEYS[1]) or ''
if fence ~= ARGV[1] then return {'F', fence} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- A Redis that is full still says that it is there.
redis.pcall('HSET', KEYS[2], ARGV[2], string.format('%.0f', now))
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  if tonumber(all[i + 1]) < now - 60000 then redis.call('HDEL', KEYS[2], all[i]) end
end
redis.call(ARGV[5], ARGV[3], ARGV[4])
-- A room that was forgotten begins at 1 again. In a new epoch, because no room is forgotten sooner than two of them last.
local young = redis.pcall('SET', KEYS[3], '1', 'NX', 'PX', ARGV[6])
if young and not young.err then
  local epoch, server = string.match(fence, '^(%d+):(.*)$')
  fence = string.format('%.0f', tonumber(epoch) + 1) .. ':' .. server
  redis.call('SET', KEYS[1], fence)
  redis.call('DEL', KEYS[4])
end
return {'T', fence}
