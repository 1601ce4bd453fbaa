-- Appends staged entries of one room. The same call again does nothing.
-- KEYS 1 repair, 2 staged rooms, 3 feed, 4 feed count, 5 staged rows, 6 meta, 7 history, 8 dedup 0, 9 dedup 1, 10 changes,
--      11 what leaves, 12 count of what leaves
-- ARGV 1 run id of this server, 2 room, 3 history length, 4 dedup window, 5 life of meta, 6 life of history, 7 whether there is a feed,
--      8 most entries of what leaves; 0: those of this room do not
if redis.call('HGET', KEYS[1], 'server') ~= ARGV[1] then return 'CLOSED' end
local rows, list, tops = redis.call('HGETALL', KEYS[5]), {}, {}
for i = 1, #rows, 2 do
  local life = string.match(rows[i], '^h(%d+)$')
  if life then tops[tonumber(life)] = tonumber(rows[i + 1]) else list[#list + 1] = {tonumber(rows[i]), rows[i + 1]} end
end
table.sort(list, function(x, y) return x[1] < y[1] end)
local fresh = tonumber(redis.call('HGET', KEYS[1], 'epoch')) + 1
local top = tonumber(redis.call('HGET', KEYS[6], 's') or '0')
local meta, last = redis.call('HGETALL', KEYS[6]), 0
for i = 1, #meta, 2 do
  local epoch = string.match(meta[i], '^e(%d+)$')
  if epoch then last = math.max(last, tonumber(epoch)) end
end
local heard = 0
for life, at in pairs(tops) do
  if life >= last then heard = math.max(heard, at) end
end
local behind_hole
local time = redis.call('TIME')
redis.call('HSETNX', KEYS[6], 'd', '0:' .. string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
local which = string.match(redis.call('HGET', KEYS[6], 'd'), '^(%d)')
local cur, put = KEYS[8 + tonumber(which)], 0
for _, row in ipairs(list) do
  local seq, epoch, body = row[1], struct.unpack('>I8', row[2]), string.sub(row[2], 9)
  -- What an older life claims behind a younger one was taken back already; its node offers it again.
  if seq > top and epoch >= last and string.byte(body) == 67 then
    for at = 2, #body, 16 do
      local life, first = struct.unpack('>I8I8', body, at)
      redis.call('HSETNX', KEYS[6], 'e' .. string.format('%.0f', life), string.format('%.0f', first))
    end
    redis.call('HSET', KEYS[6], 's', string.format('%.0f', seq))
    top, last, put = seq, epoch, put + 1
  elseif seq > top and epoch >= last then
    -- A node knows its own entry, but nobody here has heard those before it. Who has, on the other side of a cut, is to
    -- take them back and say them again; so the next life begins before them. An archive may have them at the old places:
    -- there the entry itself is said again too.
    if seq > top + 1 and top >= heard then
      if ARGV[7] == '1' then break end
      if not behind_hole then
        behind_hole = string.format('%.0f', fresh)
        redis.call('HSETNX', KEYS[6], 'e' .. behind_hole, string.format('%.0f', top + 1))
      end
    end
    local kind, _, ts, of, id_bytes = struct.unpack('>BBI8I8I2', body, 2)
    local seq_text, epoch_text = string.format('%.0f', seq), behind_hole or string.format('%.0f', epoch)
    redis.call('XADD', KEYS[7], 'MAXLEN', '~', ARGV[3], seq_text .. '-' .. epoch_text, 'b', body)
    local value = seq_text .. ':' .. epoch_text .. ':' .. string.format('%.0f', ts)
    if ARGV[7] == '1' then
      local fed = string.format('%.0f', fresh) .. '-' .. redis.call('INCR', KEYS[4])
      redis.call('XADD', KEYS[3], fed, 'r', ARGV[2], 'o', seq_text, 'e', epoch_text, 'b', body)
      value = value .. ':' .. fed
    end
    if ARGV[8] ~= '0' then
      local left = string.format('%.0f', fresh) .. '-' .. redis.call('INCR', KEYS[12])
      redis.call('XADD', KEYS[11], 'MAXLEN', '~', ARGV[8], left, 'r', ARGV[2], 'o', seq_text, 'e', epoch_text, 'b', body)
    end
    redis.call('HSET', cur, string.sub(body, 22, 21 + id_bytes), value)
    redis.call('HSETNX', KEYS[6], 'e' .. epoch_text, seq_text)
    redis.call('HSET', KEYS[6], 's', seq_text)
    if kind == 2 then redis.call('HSET', KEYS[10], string.format('%.0f', of), seq_text) end
    if kind == 3 then redis.call('HSET', KEYS[10], string.format('%.0f', of), '-' .. seq_text) end
    top, last, put = seq, epoch, put + 1
  end
end
if put > 0 then
  redis.call('PEXPIRE', cur, 2 * ARGV[4])
  if tonumber(ARGV[5]) > 0 then
    redis.call('PEXPIRE', KEYS[6], ARGV[5])
    redis.call('PEXPIRE', KEYS[10], ARGV[5])
  end
  if tonumber(ARGV[6]) > 0 then redis.call('PEXPIRE', KEYS[7], ARGV[6]) end
end
redis.call('UNLINK', KEYS[5])
redis.call('SREM', KEYS[2], ARGV[2])
return put
