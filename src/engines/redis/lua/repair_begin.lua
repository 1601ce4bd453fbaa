-- A node has found a server that may not have all that was accepted: nobody publishes here before it is repaired.
-- KEYS 1 fence, 2 repair, 3 staged rooms, 4 signs of life, 5 whether the epoch is young
-- ARGV 1 run id of this server, 2 node, 3 newest epoch that it knows, 4 window (ms), 5 its own time (ms),
--      6 key of staged rows without the room, 7 whether a server that was left behind is taken all the same
-- Says OPEN and the fence, STALE, or REPAIR
local fence = redis.call('GET', KEYS[1])
if fence and string.match(fence, ':(.*)$') == ARGV[1] then
  if tonumber(string.match(fence, '^%d+')) >= tonumber(ARGV[3]) then return {'OPEN', fence} end
  -- This node has seen a younger epoch elsewhere: others have gone on without this server.
  if ARGV[7] == '0' then return {'STALE', fence} end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('HGET', KEYS[2], 'server') ~= ARGV[1] then
  for _, room in ipairs(redis.call('SMEMBERS', KEYS[3])) do redis.call('UNLINK', ARGV[6] .. room) end
  redis.call('DEL', KEYS[2], KEYS[3])
  redis.call('HSET', KEYS[2], 'server', ARGV[1], 'until', string.format('%.0f', now + ARGV[4]), 'epoch', '0')
end
-- Begun long ago and never finished: whoever comes now gets a whole window.
if tonumber(redis.call('HGET', KEYS[2], 'until')) + 1000 < now then
  redis.call('HSET', KEYS[2], 'until', string.format('%.0f', now + ARGV[4]))
end
local epoch = tonumber(ARGV[3])
if fence then epoch = math.max(epoch, tonumber(string.match(fence, '^%d+'))) else epoch = math.max(epoch, tonumber(ARGV[5])) end
if epoch > tonumber(redis.call('HGET', KEYS[2], 'epoch')) then redis.call('HSET', KEYS[2], 'epoch', string.format('%.0f', epoch)) end
redis.call('HSET', KEYS[2], 'n' .. ARGV[2], '0')
return {'REPAIR'}
