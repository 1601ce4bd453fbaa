-- Stages entries that this server lacks. KEYS 1 fence, 2 repair, 3 staged rooms, 4 meta, 5 staged rows of the room
-- ARGV 1 run id of this server, 2 room; then per entry: offset, row = epoch as 8 bytes and body; or as body C and the
--      lives of the log (epoch, first offset, 8 bytes each): "I know of this top, and do not have its entry any more"
--      The field "h" and a life has the highest top of those nodes that are in it.
-- Says how many were above the top, or CLOSED
if redis.call('HGET', KEYS[2], 'server') ~= ARGV[1] then return 'CLOSED' end
local top, staged = tonumber(redis.call('HGET', KEYS[4], 's') or '0'), 0
for a = 3, #ARGV, 2 do
  if tonumber(ARGV[a]) > top then
    local old = redis.call('HGET', KEYS[5], ARGV[a])
    -- Of two lives that claim a place the younger one has it. Big endian, so that bytes compare as numbers.
    local is_claim = string.byte(ARGV[a + 1], 9) == 67
    if is_claim then
      local field = 'h' .. string.format('%.0f', (struct.unpack('>I8', ARGV[a + 1])))
      if tonumber(redis.call('HGET', KEYS[5], field) or '0') < tonumber(ARGV[a]) then
        redis.call('HSET', KEYS[5], field, ARGV[a])
      end
    end
    local young = old and string.sub(old, 1, 8) < string.sub(ARGV[a + 1], 1, 8)
    if not old or young or (not is_claim and string.byte(old, 9) == 67 and string.sub(old, 1, 8) == string.sub(ARGV[a + 1], 1, 8)) then
      redis.call('HSET', KEYS[5], ARGV[a], ARGV[a + 1])
    end
    staged = staged + 1
  end
end
if staged > 0 then redis.call('SADD', KEYS[3], ARGV[2]) end
return staged
