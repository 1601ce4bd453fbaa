-- A target has everything in a partition's stream of what leaves up to a place. What all targets have is forgotten.
-- KEYS 1 turn, 2 stream, 3 places, 4 when each target was last known; ARGV 1 who, 2 target, 3 epoch, 4 number,
--      5 how long a target counts that no node knows (ms); then all targets that this node knows
-- Says OK, or LOST when it is another's turn
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'LOST' end
local function parts(place)
  local epoch, n = string.match(place or '', '^(%d+)-(%d+)$')
  return tonumber(epoch or '0'), tonumber(n or '0')
end
local function is_before(place, other)
  local e, n = parts(place)
  local other_e, other_n = parts(other)
  return e < other_e or (e == other_e and n < other_n)
end
local upto = ARGV[3] .. '-' .. ARGV[4]
if is_before(redis.call('HGET', KEYS[3], ARGV[2]), upto) then redis.call('HSET', KEYS[3], ARGV[2], upto) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for a = 6, #ARGV do redis.call('HSET', KEYS[4], ARGV[a], string.format('%.0f', now)) end
local places, first = redis.call('HGETALL', KEYS[3]), nil
for i = 1, #places, 2 do
  -- A target that was taken out of the configuration holds nothing up for long.
  local seen = tonumber(redis.call('HGET', KEYS[4], places[i]) or '0')
  if seen == 0 then
    redis.call('HSET', KEYS[4], places[i], string.format('%.0f', now))
    seen = now
  end
  if seen < now - tonumber(ARGV[5]) then
    redis.call('HDEL', KEYS[3], places[i])
    redis.call('HDEL', KEYS[4], places[i])
  elseif not first or is_before(places[i + 1], first) then
    first = places[i + 1]
  end
end
if first then
  local epoch, n = parts(first)
  redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f', epoch) .. '-' .. string.format('%.0f', n + 1))
end
return 'OK'
