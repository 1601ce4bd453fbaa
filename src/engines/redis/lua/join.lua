-- Lets a node hear of rooms, and says what they are, in one step: no entry falls between the two.
-- KEYS 1 fence; then per room: meta, history, changes
-- ARGV 1 fence, 2 node; per room: after which offset its entries are wanted (empty: the newest), how many, life of meta (ms, 0: for ever)
-- Says per room: meta, oldest entry, entries (newest first unless an offset was given), changes
local fence = redis.call('GET', KEYS[1])
if fence ~= ARGV[1] then return {'F', fence or ''} end
local node, out, a = ARGV[2], {}, 3
for k = 2, #KEYS, 3 do
  local meta, hist = KEYS[k], KEYS[k + 1]
  local who = redis.call('HGET', meta, 'i')
  if not who then
    redis.call('HSET', meta, 'i', node)
  elseif not string.find(',' .. who .. ',', ',' .. node .. ',', 1, true) then
    redis.call('HSET', meta, 'i', who .. ',' .. node)
  end
  local life = tonumber(ARGV[a + 2])
  if life > 0 then redis.call('PEXPIRE', meta, life) end
  local after, count = ARGV[a], tonumber(ARGV[a + 1])
  local entries, changes = {}, {}
  if after ~= '' then
    entries = redis.call('XRANGE', hist, string.format('%.0f', tonumber(after) + 1), '+', 'COUNT', count)
  else
    if count > 0 then entries = redis.call('XREVRANGE', hist, '+', '-', 'COUNT', count) end
    changes = redis.call('HGETALL', KEYS[k + 2])
  end
  out[#out + 1] = {redis.call('HGETALL', meta), redis.call('XRANGE', hist, '-', '+', 'COUNT', 1), entries, changes}
  a = a + 3
end
return out
