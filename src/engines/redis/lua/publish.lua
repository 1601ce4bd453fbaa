-- Gives places to messages of many rooms of one partition, and sends them to the nodes that have joined.
-- KEYS 1 fence, 2 feed, 3 feed count, 4 what leaves, 5 count of what leaves; then per room: meta, history, dedup 0, dedup 1, changes
-- ARGV 1 fence, 2 epoch, 3 session channel, 4 inbox channels without the node, 5 most entries in the feed (0: no feed),
--      6 whether rooms are known to an archive, 7 number of rooms, 8 publish command, 9 numsub command,
--      10 most entries of what leaves;
--      per room: name behind its length, history length, dedup window, life of meta, life of history (both ms, 0: for ever), mark,
--      whether its entries leave
--      then per message: number of its room, body
-- Says per message: + new or = known before "offset:epoch:ts[:feed id]", g: what it is about is gone, u: room not loaded
local fence = redis.call('GET', KEYS[1])
if fence ~= ARGV[1] then return {'F', fence or ''} end
-- Subscriptions belong to one server process and are never replicated: OUR repaired session lives on THIS server.
if redis.call('PUBSUB', ARGV[9], ARGV[3])[2] == 0 then return {'S', fence} end
local epoch, feed_max = ARGV[2], tonumber(ARGV[5])
if feed_max > 0 and redis.call('XLEN', KEYS[2]) >= feed_max then return {'A', fence} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local rooms, a = {}, 11
for r = 1, tonumber(ARGV[7]) do
  local k = 6 + (r - 1) * 5
  local m = redis.call('HMGET', KEYS[k], 's', 'i', 'd', 'e' .. epoch)
  local room = {
    meta = KEYS[k], hist = KEYS[k + 1], changes = KEYS[k + 4], known = m[1], who = m[2], begun = m[4],
    name = ARGV[a], length = tonumber(ARGV[a + 1]), window = tonumber(ARGV[a + 2]),
    meta_life = tonumber(ARGV[a + 3]), hist_life = tonumber(ARGV[a + 4]), mark = ARGV[a + 5] == '1', leaves = ARGV[a + 6] == '1',
    wrote = false,
  }
  local which, start = 0, now
  if m[3] then
    local w, s = string.match(m[3], '^(%d):(%d+)$')
    which, start = tonumber(w), tonumber(s)
  end
  -- Redis' own clock turns the buckets, so that all nodes agree on which is which.
  if not m[3] or now - start >= room.window or start > now + room.window then
    if m[3] then
      which = 1 - which
      redis.call('UNLINK', KEYS[k + 2 + which])
    end
    redis.call('HSET', room.meta, 'd', which .. ':' .. string.format('%.0f', now))
    room.mark = true
  end
  room.cur, room.prev = KEYS[k + 2 + which], KEYS[k + 3 - which]
  rooms[r] = room
  a = a + 7
end
local out, boxes, order = {}, {}, {}
local n = 0
while ARGV[a] do
  n = n + 1
  local room, body = rooms[tonumber(ARGV[a])], ARGV[a + 1]
  local kind, _, ts, of, id_bytes = struct.unpack('>BBI8I8I2', body, 2)
  local id = string.sub(body, 22, 21 + id_bytes)
  local old = redis.call('HGET', room.cur, id)
  if not old and room.elder ~= 0 then
    old = redis.call('HGET', room.prev, id)
    -- Most rooms have no older bucket: a second message of the room need not look there.
    if not old and not room.elder then room.elder = redis.call('EXISTS', room.prev) end
  end
  local seq
  if old then
    -- Written again, so that a wait for replicas waits for its first place too.
    redis.call('HSET', room.cur, id, old)
    room.wrote = true
    out[n] = '=' .. old
  elseif ARGV[6] == '1' and not room.known then
    out[n] = 'u'
  else
    local change = kind ~= 1 and redis.call('HGET', room.changes, string.format('%.0f', of))
    if change and string.byte(change) == 45 then
      out[n] = 'g'
    elseif string.byte(body) == 80 then
      seq = 0
    else
      seq = redis.call('HINCRBY', room.meta, 's', 1)
    end
  end
  if seq then
    -- Fewer than 15 digits each, so that Lua writes them out.
    local value = seq .. ':' .. epoch .. ':' .. ts
    if seq > 0 then
      if not room.begun then
        redis.call('HSETNX', room.meta, 'e' .. epoch, seq)
        room.begun = true
      end
      if not room.known then room.known = true; room.mark = true end
      redis.call('XADD', room.hist, 'MAXLEN', '~', room.length, seq .. '-' .. epoch, 'b', body)
      if kind == 2 then redis.call('HSET', room.changes, string.format('%.0f', of), seq) end
      if kind == 3 then redis.call('HSET', room.changes, string.format('%.0f', of), -seq) end
      if kind == 2 or kind == 3 then
        room.mark = true
        if redis.call('HLEN', room.changes) > 4 * room.length then
          for _, at in ipairs(redis.call('HKEYS', room.changes)) do
            if tonumber(at) + 2 * room.length < seq then redis.call('HDEL', room.changes, at) end
          end
        end
      end
      if feed_max > 0 then
        local fed = epoch .. '-' .. redis.call('INCR', KEYS[3])
        redis.call('XADD', KEYS[2], fed, 'r', string.sub(room.name, 3), 'o', seq, 'e', epoch, 'b', body)
        value = value .. ':' .. fed
      end
      if room.leaves then
        local left = epoch .. '-' .. redis.call('INCR', KEYS[5])
        redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[10], left, 'r', string.sub(room.name, 3), 'o', seq, 'e', epoch, 'b', body)
      end
    end
    redis.call('HSET', room.cur, id, value)
    room.wrote = true
    out[n] = '+' .. value
    if room.who then
      local box = boxes[room.who]
      if not box then
        box = {}
        boxes[room.who] = box
        order[#order + 1] = room.who
      end
      box[#box + 1] = 'e' .. struct.pack('>I4', #room.name + 16 + #body) .. room.name
        .. struct.pack('>I8I8', seq, tonumber(epoch)) .. body
    end
  end
  a = a + 2
end
for _, room in ipairs(rooms) do
  if room.wrote then
    if redis.call('PTTL', room.cur) < 0 then redis.call('PEXPIRE', room.cur, 2 * room.window) end
    if room.mark and room.meta_life > 0 then
      redis.call('PEXPIRE', room.meta, room.meta_life)
      redis.call('PEXPIRE', room.changes, room.meta_life)
    end
    if room.mark and room.hist_life > 0 then redis.call('PEXPIRE', room.hist, room.hist_life) end
  end
end
for _, who in ipairs(order) do
  local message, left, away = table.concat(boxes[who]), {}, false
  for node in string.gmatch(who, '[^,]+') do
    -- Nobody listens: that node is gone, or joins its rooms again when it is back.
    if redis.call(ARGV[8], ARGV[4] .. node, message) == 0 then away = true else left[#left + 1] = node end
  end
  if away then
    for _, room in ipairs(rooms) do
      if room.who == who then
        if #left > 0 then redis.call('HSET', room.meta, 'i', table.concat(left, ',')) else redis.call('HDEL', room.meta, 'i') end
      end
    end
  end
end
return out
