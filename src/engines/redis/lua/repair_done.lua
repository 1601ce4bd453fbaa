-- A node has staged all that it had. KEYS 1 fence, 2 repair, 3 signs of life; ARGV 1 run id of this server, 2 node
-- Says WAIT and for how long (ms), GO, or OPEN if the repair is over
local fence = redis.call('GET', KEYS[1])
if redis.call('HGET', KEYS[2], 'server') ~= ARGV[1] then return {'OPEN', fence or ''} end
redis.call('HSET', KEYS[2], 'n' .. ARGV[2], '1')
local time = redis.call('TIME')
local left = tonumber(redis.call('HGET', KEYS[2], 'until')) - (time[1] * 1000 + math.floor(time[2] / 1000))
if left <= 0 then return {'GO'} end
-- Who was alive when the old server was last written to: the clocks of two servers are not compared.
local signs, newest = redis.call('HGETALL', KEYS[3]), 0
for i = 2, #signs, 2 do newest = math.max(newest, tonumber(signs[i])) end
if newest == 0 then return {'WAIT', left} end
for i = 1, #signs, 2 do
  local alive = tonumber(signs[i + 1]) > newest - 3000
  if alive and redis.call('HGET', KEYS[2], 'n' .. signs[i]) ~= '1' then return {'WAIT', left} end
end
local seen = redis.call('HGETALL', KEYS[2])
for i = 1, #seen, 2 do
  if string.match(seen[i], '^n%d') and seen[i + 1] ~= '1' then return {'WAIT', left} end
end
return {'GO'}
